//! As much of D-Bus as it takes to ask systemd for something and to hear when it is done (D-Bus
//! specification, "Message Protocol" and "Authentication Protocol").
//!
//! One thread, and no descriptor that outlives its call: a supervisor is about to have processes and
//! namespaces of its own. That is why this is no larger library's work; the encoding of values is.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zvariant::serialized::{Context, Data};
use zvariant::{LE, Type, Value};

/// Where the bus of the system is.
const SYSTEM: &str = "/run/dbus/system_bus_socket";

/// Where systemd itself listens, for root.
const PRIVATE: &str = "/run/systemd/private";

/// How long systemd may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest message of D-Bus.
const MAX_BYTES: usize = 128 << 20;

/// Bytes before a message's fields.
const FIXED_BYTES: usize = 16;

/// Every type of message, by its number in the header.
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Every field of a header, by its number.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Why systemd was not asked, or what it said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    /// Nobody listens.
    #[error("{SYSTEM} and {PRIVATE}")]
    Absent(#[source] io::Error),
    /// The other side is not what it should be.
    #[error("{what}")]
    Nonsense {
        /// What it said.
        what: String,
    },
    /// The conversation broke off.
    #[error("connection")]
    Io(#[from] io::Error),
    /// A value has no place in a message.
    #[error("message")]
    Value(#[from] zvariant::Error),
    /// systemd will not.
    #[error("{message} ({name})")]
    Refused {
        /// The error's name.
        name: String,
        /// systemd's words.
        message: String,
    },
}

/// A conversation with systemd.
pub(super) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// Signals that came while we waited for something else.
    signals: Vec<Message>,
}

/// Whom and what a call is for.
pub(super) struct Target {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
}

const DAEMON: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

impl Bus {
    /// Comes to systemd over the system's bus, or directly where there is none.
    pub(super) fn connect() -> Result<Self, BusError> {
        match UnixStream::connect(SYSTEM) {
            Ok(stream) => {
                let mut bus = Self::greet(stream)?;
                let _: String = bus.call(&DAEMON, "Hello", &())?;
                Ok(bus)
            }
            Err(_) => Self::greet(UnixStream::connect(PRIVATE).map_err(BusError::Absent)?),
        }
    }

    fn greet(stream: UnixStream) -> Result<Self, BusError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let user = rustix::process::geteuid().as_raw().to_string();
        let hexadecimal: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        // BEGIN goes ahead of the answer, as systemd's own clients have it: a call that reaches systemd in
        // one piece with BEGIN lies there until something else comes.
        (&stream).write_all(format!("\0AUTH EXTERNAL {hexadecimal}\r\nBEGIN\r\n").as_bytes())?;
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        (&mut stream).take(512).read_line(&mut answer)?;
        if !answer.starts_with("OK ") {
            return Err(BusError::Nonsense { what: format!("AUTH: {}", answer.trim()) });
        }
        Ok(Self { stream, serial: 0, signals: vec![] })
    }

    /// Asks for the signals of `interface` called `member`.
    pub(super) fn watch(&mut self, interface: &str, member: &str) -> Result<(), BusError> {
        let rule = format!("type='signal',interface='{interface}',member='{member}'");
        match self.call(&DAEMON, "AddMatch", &(rule,)) {
            // systemd itself sends them unasked, and knows no such call.
            Err(BusError::Refused { .. }) => Ok(()),
            answer => answer,
        }
    }

    /// Calls a method, and waits for what it returns.
    pub(super) fn call<T: DeserializeOwned + Type>(
        &mut self,
        target: &Target,
        member: &str,
        arguments: &(impl Serialize + Type),
    ) -> Result<T, BusError> {
        self.serial += 1;
        let call = encode(self.serial, target, member, arguments)?;
        self.stream.get_ref().write_all(&call)?;
        loop {
            let message = self.next()?;
            match message.kind {
                SIGNAL => self.signals.push(message),
                RETURN if message.reply_to == Some(self.serial) => return message.body(),
                ERROR if message.reply_to == Some(self.serial) => return Err(message.error()),
                _ => {}
            }
        }
    }

    /// Waits for the next signal called `member`, and gives what it says.
    pub(super) fn signal<T: DeserializeOwned + Type>(
        &mut self,
        member: &str,
    ) -> Result<T, BusError> {
        loop {
            let message =
                if self.signals.is_empty() { self.next()? } else { self.signals.remove(0) };
            if message.kind == SIGNAL && message.member == member {
                return message.body();
            }
        }
    }

    fn next(&mut self) -> Result<Message, BusError> {
        let mut bytes = vec![0; FIXED_BYTES];
        self.stream.read_exact(&mut bytes)?;
        let number = |at: usize| {
            bytes[at..at + 4].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (body, fields) = (number(4), number(12));
        if bytes[0] != b'l' || body > MAX_BYTES || fields > MAX_BYTES {
            return Err(BusError::Nonsense { what: "a message that makes no sense".to_owned() });
        }
        let head = (FIXED_BYTES + fields).next_multiple_of(8);
        bytes.resize(head + body, 0);
        self.stream.read_exact(&mut bytes[FIXED_BYTES..])?;
        Message::decode(&bytes, head)
    }
}

fn encode<T: Serialize + Type>(
    serial: u32,
    target: &Target,
    member: &str,
    arguments: &T,
) -> Result<Vec<u8>, BusError> {
    let body = zvariant::to_bytes(Context::new_dbus(LE, 0), arguments)?;
    let mut message = vec![b'l', CALL, 0, 1];
    message.extend((body.len() as u32).to_le_bytes());
    message.extend(serial.to_le_bytes());
    message.extend([0; 4]);
    add_field(&mut message, PATH, b'o', target.path);
    add_field(&mut message, INTERFACE, b's', target.interface);
    add_field(&mut message, MEMBER, b's', member);
    add_field(&mut message, DESTINATION, b's', target.destination);
    add_field(&mut message, SIGNATURE, b'g', &T::SIGNATURE.to_string_no_parens());
    let fields = (message.len() - FIXED_BYTES) as u32;
    message[12..FIXED_BYTES].copy_from_slice(&fields.to_le_bytes());
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend_from_slice(&body);
    Ok(message)
}

/// A field of a header: its number, and a string, a path or a signature.
fn add_field(message: &mut Vec<u8>, number: u8, kind: u8, text: &str) {
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend([number, 1, kind, 0]);
    match kind {
        b'g' => message.push(text.len() as u8),
        _ => message.extend((text.len() as u32).to_le_bytes()),
    }
    message.extend(text.bytes());
    message.push(0);
}

/// What a header is: byte order, type, flags, version, bytes of the body, serial number, fields.
type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Value<'a>)>);

/// A message that came.
#[derive(Debug)]
struct Message {
    kind: u8,
    reply_to: Option<u32>,
    member: String,
    error: String,
    body: Vec<u8>,
}

impl Message {
    fn decode(bytes: &[u8], head: usize) -> Result<Self, BusError> {
        let data = Data::new(&bytes[..head], Context::new_dbus(LE, 0));
        let ((_, kind, .., fields), _): (Header<'_>, _) = data.deserialize()?;
        let field = |wanted: u8| fields.iter().find(|(code, _)| *code == wanted).map(|(_, it)| it);
        let text = |wanted| match field(wanted) {
            Some(Value::Str(text)) => text.to_string(),
            _ => String::new(),
        };
        let reply_to = match field(REPLY_SERIAL) {
            Some(Value::U32(serial)) => Some(*serial),
            _ => None,
        };
        let (member, error) = (text(MEMBER), text(ERROR_NAME));
        Ok(Self { kind, reply_to, member, error, body: bytes[head..].to_vec() })
    }

    fn body<T: DeserializeOwned + Type>(&self) -> Result<T, BusError> {
        Ok(Data::new(&self.body[..], Context::new_dbus(LE, 0)).deserialize::<T>()?.0)
    }

    fn error(&self) -> BusError {
        let message = self.body().unwrap_or_default();
        BusError::Refused { name: self.error.clone(), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn systemd() -> Target {
        Target { destination: "a.b", path: "/a", interface: "a.c" }
    }

    #[test]
    fn a_call_is_laid_out_as_the_specification_has_it() {
        let bytes = encode(7, &systemd(), "Do", &("x", 5_u32)).unwrap();
        assert_eq!(&bytes[..12], [b'l', 1, 0, 1, 12, 0, 0, 0, 7, 0, 0, 0]);
        let fields = usize::from(bytes[12]);
        assert_eq!(&bytes[16..26], b"\x01\x01o\0\x02\0\0\0/a");
        let body = (16 + fields).next_multiple_of(8);
        assert_eq!(&bytes[body..], b"\x01\0\0\0x\0\0\0\x05\0\0\0");
        assert!(bytes[..body].windows(6).any(|it| it == b"\x01g\0\x02su"));
    }

    #[test]
    fn what_we_say_we_understand() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut bus = Bus { stream: BufReader::new(ours), serial: 0, signals: vec![] };
        (&theirs).write_all(&encode(1, &systemd(), "Do", &("x", 5_u32)).unwrap()).unwrap();
        let message = bus.next().unwrap();
        assert_eq!((message.kind, message.member.as_str()), (CALL, "Do"));
        assert_eq!(message.body::<(String, u32)>().unwrap(), ("x".to_owned(), 5));
    }

    #[test]
    fn a_message_of_the_wrong_order_or_length_is_none() {
        let good = encode(1, &systemd(), "Do", &()).unwrap();
        for (at, byte) in [(0, b'B'), (7, 0xff), (15, 0xff)] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut bus = Bus { stream: BufReader::new(ours), serial: 0, signals: vec![] };
            let mut bad = good.clone();
            bad[at] = byte;
            (&theirs).write_all(&bad).unwrap();
            assert!(matches!(bus.next(), Err(BusError::Nonsense { .. })), "{at}");
        }
    }
}
