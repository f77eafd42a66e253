use super::*;

/// A change to a field.
type Spoil = fn(&mut VmSpec);

fn boot(command_line: &str) -> Begin {
    let command_line = command_line.into();
    Begin::Boot { kernel: Inherited(4), initramfs: Inherited(5), command_line }
}

fn net() -> NetSpec {
    let (to_guest, from_guest) = Default::default();
    let (wire, mac, mtu) = (WireSpec::Tap(vec![Inherited(13)]), [2, 0, 0, 0, 0, 1], 1500);
    NetSpec { wire, mac, mtu, to_guest, from_guest }
}

fn spec() -> VmSpec {
    VmSpec {
        vcpus: 1,
        ram_bytes: MIN_RAM_BYTES,
        kvm: Inherited(3),
        begin: boot("quiet"),
        disks: vec![None, Some(DiskSpec::read_only(Inherited(6)))],
        vsock: VsockSpec {
            guest_cid: 3,
            listener: Inherited(7),
            host_ports: vec![HostPort { port: 1024, socket: Inherited(8) }],
        },
        fs: Some(FsSpec { tag: "files".into(), socket: Some(Inherited(10)) }),
        nets: vec![None, Some(net())],
        serial_log: None,
        capture: Some(SnapshotSpec { state: Inherited(11), memory: Inherited(12) }),
        working_set: Some(Inherited(14)),
        record: Some(Inherited(15)),
        control: Inherited(9),
    }
}

#[test]
fn each_field_out_of_range_is_named() {
    assert_eq!(spec().check(), Ok(()));
    let cases: [(Spoil, &str); 22] = [
        (
            |spec| {
                let bytes = Some(Rate { per_second: 0, burst: 1 });
                let from_guest = Limits { bytes, requests: None };
                spec.nets[1] = Some(NetSpec { from_guest, ..net() });
            },
            "nets[1] has a rate of 0",
        ),
        (|spec| spec.nets = vec![None; 9], "9 network slots"),
        (
            |spec| spec.nets[1] = Some(NetSpec { wire: WireSpec::Tap(vec![]), ..net() }),
            "nets[1] has a tap of 0 queues",
        ),
        (|spec| spec.nets[1] = Some(NetSpec { mac: [3; 6], ..net() }), "nets[1].mac"),
        (|spec| spec.nets[1] = Some(NetSpec { mac: [0; 6], ..net() }), "nets[1].mac"),
        (|spec| spec.nets[1] = Some(NetSpec { mtu: 67, ..net() }), "nets[1].mtu is 67"),
        (|spec| spec.vcpus = 0, "vcpus is 0"),
        (|spec| spec.vcpus = 33, "vcpus is 33"),
        (|spec| spec.ram_bytes = 1 << 20, "ram_bytes is 1048576"),
        (|spec| spec.ram_bytes += 4096, "ram_bytes is 67112960"),
        (|spec| spec.ram_bytes = 1 << 41, "ram_bytes is 2199023255552"),
        (|spec| spec.disks = vec![None; 17], "17 disks"),
        (
            |spec| {
                let rate = Rate { per_second: 9, burst: 0 };
                spec.disks[1].as_mut().unwrap().limits.requests = Some(rate);
            },
            "disk 1 has a rate of 0",
        ),
        (
            |spec| spec.disks[1].as_mut().unwrap().own_threads = true,
            "disk 1 has threads of its own",
        ),
        (|spec| spec.vsock.guest_cid = 2, "vsock.guest_cid is 2"),
        (|spec| spec.vsock.guest_cid = u32::MAX, "vsock.guest_cid is 4294967295"),
        (|spec| spec.fs.as_mut().unwrap().tag.clear(), "fs.tag is \"\""),
        (|spec| spec.fs.as_mut().unwrap().tag.push('\0'), "fs.tag is \"files\\0\""),
        (|spec| spec.fs.as_mut().unwrap().tag = "x".repeat(37), "fs.tag is \"xxx"),
        (|spec| spec.begin = boot("a\0b"), "command_line has a character at 1"),
        (|spec| spec.begin = boot("a b\n"), "command_line has a character at 3"),
        (
            |spec| {
                let again = HostPort { port: 1024, socket: Inherited(11) };
                spec.vsock.host_ports.push(again);
            },
            "vsock.host_ports names port 1024 twice",
        ),
    ];
    for (spoil, want) in cases {
        let mut spec = spec();
        spoil(&mut spec);
        let message = spec.check().unwrap_err().to_string();
        assert!(message.starts_with(want), "{message}");
    }
}

#[test]
fn every_descriptor_is_named() {
    let mut numbers: Vec<_> = spec().descriptors().map(|fd| fd.0).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (3..=15).collect::<Vec<_>>());
}
