//! Frames whatever the pieces they come in, and bytes that are none.

use proto::frame::{self, Decoder, FrameError};
use proto::message::{Answer, Call, Hello, ProcessId, Request};

#[test]
fn values_arrive_whole_and_in_order_however_the_stream_is_cut() {
    let values = ["", "a", "two words", "\u{1f980}\0\"\\", &"long".repeat(50)];
    let mut stream: Vec<u8> = values.iter().flat_map(|v| frame::encode(v).unwrap()).collect();
    stream.extend(b"abc");
    for cut in 1..=stream.len() {
        let (mut decoder, mut read) = (Decoder::default(), Vec::new());
        for piece in stream.chunks(cut) {
            decoder.push(piece);
            while let Some(value) = decoder.next::<String>().unwrap() {
                read.push(value);
            }
        }
        assert_eq!(read, values, "in pieces of {cut}");
        assert_eq!(decoder.into_rest(), b"abc");
    }
}

#[test]
fn a_frame_with_any_byte_wrong_or_missing_is_refused_waited_for_or_another_value() {
    let process = ProcessId { container: "web".into(), exec: Some("e".into()) };
    let call = Call { id: 7, request: Request::Signal { process, signal: 9, all: true } };
    let good = frame::encode(&call).unwrap();
    let read = |bytes: &[u8]| {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        // Whatever is meant, no type may take it badly.
        let _ = (decoder.next::<Hello>(), decoder.next::<Answer>());
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        decoder.next::<Call>()
    };
    for end in 0..good.len() {
        assert!(matches!(read(&good[..end]), Ok(None)), "{end} bytes");
    }
    for place in 0..good.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = good.clone();
            bytes[place] = byte;
            let same = matches!(read(&bytes), Ok(Some(value)) if value == call);
            assert_eq!(same, byte == good[place], "byte {place} as {byte}");
        }
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
