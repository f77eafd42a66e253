//! Frames whatever the pieces they come in, and bytes that are none.

use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proto::frame::{self, Decoder, FrameError};
use proto::message::{Answer, Call, Hello};

proptest! {
    #[test]
    fn values_arrive_whole_and_in_order_however_the_stream_is_cut(
        values in vec(any::<String>(), 0..8),
        cuts in vec(1..64_usize, 1..64),
        rest in vec(any::<u8>(), 0..3),
    ) {
        let mut stream: Vec<u8> = values.iter().flat_map(|v| frame::encode(v).unwrap()).collect();
        stream.extend(&rest);
        let (mut decoder, mut read, mut bytes) = (Decoder::default(), Vec::new(), &stream[..]);
        for cut in cuts.into_iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (piece, behind) = bytes.split_at(cut.min(bytes.len()));
            decoder.push(piece);
            bytes = behind;
            while let Some(value) = decoder.next::<String>().unwrap() {
                read.push(value);
            }
        }
        assert_eq!(read, values);
        assert_eq!(decoder.into_rest(), rest);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic_or_take_more_than_it_was_given(
        bytes in vec(any::<u8>(), 0..512),
    ) {
        fn drained<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> usize {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            while let Ok(Some(_)) = decoder.next::<T>() {}
            decoder.into_rest().len()
        }
        assert!(drained::<Hello>(&bytes) <= bytes.len());
        assert!(drained::<Call>(&bytes) <= bytes.len());
        assert!(drained::<Answer>(&bytes) <= bytes.len());
    }
}

#[test]
fn the_longest_frame_passes_and_one_byte_more_does_not() {
    let longest = "x".repeat(frame::MAX_BYTES - 2);
    let bytes = frame::encode(&longest).unwrap();
    let mut decoder = Decoder::default();
    decoder.push(&bytes);
    assert_eq!(decoder.next::<String>().unwrap(), Some(longest.clone()));
    let refused = frame::encode(&(longest + "x")).unwrap_err();
    assert!(matches!(refused, FrameError::TooLong { bytes } if bytes == frame::MAX_BYTES + 1));
}
