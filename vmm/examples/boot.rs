//! Boots a kernel by hand: for work on the kernel, the initramfs, and this crate.
//!
//! ```text
//! boot KERNEL INITRAMFS [--vcpus N] [--mib N] [--disk IMAGE]... [--writable-disk IMAGE]...
//!      [--append WORDS] [--serial FILE] [--listen SOCKET] [--port N=SOCKET]... [--stdio-port N]
//! ```
//!
//! `--listen` makes a socket for the hybrid convention (`CONNECT <port>\n`); `--port` connects the
//! guest's dialling of port N of the host to a socket that somebody listens on; `--stdio-port` prints
//! what the guest sends when it dials that port. Reports are printed as they come; the exit code is 0
//! if the guest powered itself off.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use vmm::spec::{Begin, DiskSpec, Ending, HostPort, Inherited, Report, VmSpec, VsockSpec};

/// Prints what the guest sends, to its end.
type Printer = std::thread::JoinHandle<io::Result<u64>>;

/// The hidden word that makes this program a VMM.
const VMM: &str = "--vmm";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, descriptor] = arguments.as_slice()
        && word == VMM
    {
        return Ok(vmm::main(descriptor.parse()?));
    }
    let [kernel, initramfs, options @ ..] = arguments.as_slice() else {
        bail!("usage: boot KERNEL INITRAMFS [OPTIONS], see the source");
    };
    let (mut open, mut printers) = (Vec::new(), Vec::new());
    let spec = spec(kernel, initramfs, options, &mut open, &mut printers)?;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let spec = VmSpec { control: Inherited(theirs.as_raw_fd()), ..spec };
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(VMM);
    let handed_over = vmm::launch::hand_over(&mut command, &spec)?;
    let mut child = command.spawn()?;
    drop((handed_over, theirs, open));

    let mut ending = None;
    let mut first = None;
    while let Some(report) = receive(&ours)? {
        match report {
            Report::Mark { name, monotonic_ns } => {
                let start = *first.get_or_insert(monotonic_ns);
                eprintln!("{:>10} us  {name}", (monotonic_ns - start) / 1000);
            }
            Report::Ended { ending: why } => ending = Some(why),
        }
    }
    let status = child.wait()?;
    for printer in printers {
        printer.join().map_err(|_| anyhow!("a printer panicked"))??;
    }
    eprintln!("VMM: {status}");
    match ending {
        None => bail!("the VMM said nothing about its end"),
        Some(Ending::PoweredOff) => {
            eprintln!("powered off");
            Ok(ExitCode::SUCCESS)
        }
        Some(Ending::Panicked { message, last_words }) => {
            eprintln!("{last_words}\npanicked: {message}");
            Ok(ExitCode::FAILURE)
        }
        Some(Ending::TripleFault { last_words }) => {
            eprintln!("{last_words}\ntriple fault");
            Ok(ExitCode::FAILURE)
        }
        Some(Ending::KvmStopped { reason, last_words }) => {
            eprintln!("{last_words}\nKVM stopped: {reason}");
            Ok(ExitCode::FAILURE)
        }
        Some(other) => {
            eprintln!("{other:?}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn spec(
    kernel: &str,
    initramfs: &str,
    options: &[String],
    open: &mut Vec<OwnedFd>,
    printers: &mut Vec<Printer>,
) -> Result<VmSpec> {
    let mut keep = |fd: OwnedFd| {
        let number = Inherited(fd.as_raw_fd());
        open.push(fd);
        number
    };
    let opened = |path: &str| File::open(path).with_context(|| path.to_owned());
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").context("/dev/kvm")?;
    let mut spec = VmSpec {
        vcpus: 1,
        ram_bytes: 256 << 20,
        kvm: keep(kvm.into()),
        begin: Begin::Boot {
            kernel: keep(opened(kernel)?.into()),
            initramfs: keep(opened(initramfs)?.into()),
            command_line: String::new(),
        },
        disks: vec![],
        vsock: VsockSpec { guest_cid: 3, listener: Inherited(-1), host_ports: vec![] },
        fs: None,
        nets: vec![],
        serial_log: None,
        capture: None,
        working_set: None,
        record: None,
        control: Inherited(-1),
    };
    let mut listen = None;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let value = options.next().with_context(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--vcpus" => spec.vcpus = value.parse()?,
            "--mib" => spec.ram_bytes = value.parse::<u64>()? << 20,
            "--append" => {
                if let Begin::Boot { command_line, .. } = &mut spec.begin {
                    command_line.clone_from(value);
                }
            }
            "--disk" | "--writable-disk" => {
                let read_only = option == "--disk";
                let file = OpenOptions::new().read(true).write(!read_only).open(value);
                let image = keep(file.with_context(|| value.clone())?.into());
                let disk = DiskSpec { read_only, ..DiskSpec::read_only(image) };
                spec.disks.push(Some(disk));
            }
            "--serial" => spec.serial_log = Some(keep(File::create(value)?.into())),
            "--listen" => listen = Some(UnixListener::bind(value).context(value.clone())?),
            "--port" => {
                let (port, path) = value.split_once('=').context("--port N=SOCKET")?;
                let socket = keep(UnixStream::connect(path).context(path.to_owned())?.into());
                spec.vsock.host_ports.push(HostPort { port: port.parse()?, socket });
            }
            "--stdio-port" => {
                let (mut near, far) = UnixStream::pair()?;
                let socket = keep(far.into());
                spec.vsock.host_ports.push(HostPort { port: value.parse()?, socket });
                printers.push(std::thread::spawn(move || io::copy(&mut near, &mut io::stdout())));
            }
            _ => bail!("unknown option {option}"),
        }
    }
    // The device wants a listener even where nobody will call: an abstract one has no path to clean.
    let listener = match listen {
        Some(listener) => listener,
        None => unnamed_listener()?,
    };
    spec.vsock.listener = keep(listener.into());
    Ok(spec)
}

fn unnamed_listener() -> Result<UnixListener> {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("microvm-boot-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    Ok(UnixListener::bind_addr(&address)?)
}

fn receive(control: &OwnedFd) -> Result<Option<Report>> {
    let mut packet = vec![0u8; 64 << 10];
    match recv(control.as_raw_fd(), &mut packet, MsgFlags::empty())? {
        0 => Ok(None),
        bytes => Ok(Some(serde_json::from_slice(&packet[..bytes])?)),
    }
}
