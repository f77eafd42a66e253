//! Where others' bytes come in, each as one function from bytes to nothing: for fuzzers, who look for panics,
//! endless loops, memory without bounds, and for what must hold of a disk and a wire whatever a guest does.
//! Nothing else calls them.

mod rig;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex};

use self::rig::{Rig, file};
use crate::arch::state::{ChipsState, VcpuState};
use crate::bus::BusDevice;
use crate::devices::serial::{LastWords, SerialLine, SerialLineState};
use crate::machine::{self, BuildError};
use crate::section::{Section, State, States};
use crate::snapshot;
use crate::virtio::mmio::MmioState;

/// The file of a machine's state. What is read as one is written as the same file, and what stands in its
/// sections is read by those whose they are.
pub fn snapshot(bytes: &[u8]) {
    let sealed = sealed(bytes);
    for bytes in [bytes, &sealed] {
        let Ok(sections) = snapshot::read(bytes) else { continue };
        assert_eq!(snapshot::write(&sections), bytes);
        for section in &sections {
            let _ = VcpuState::from_section(section);
            let _ = ChipsState::from_section(section);
            let _ = talk(section);
        }
        if let (Ok(state), Ok(memory)) = (file(bytes), file(&[0; 4096])) {
            let _ = machine::belong_together(&state, &memory, Some(&state));
        }
    }
}

/// A guest's serial line that is as `section` says, spoken to.
fn talk(section: &Section) -> Result<(), BuildError> {
    let heard = Arc::new(Mutex::new(LastWords::default()));
    let mut line = SerialLine::new(SerialLineState::from_section(section)?, heard, None)?;
    for offset in 0..8 {
        line.read(offset, &mut [0]);
        line.write(offset, b"a");
    }
    SerialLine::new(line.save(), Arc::default(), None)?;
    Ok(())
}

/// A file with the checksums that belong to what it says (`snapshot`): who changes the one can change the other.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    const HEADER: usize = 20;
    const SECTION: usize = 8;
    let mut file = bytes.to_vec();
    let mut seal = |at: usize, of: &[&[u8]]| {
        let mut hasher = crc32fast::Hasher::new();
        of.iter().for_each(|part| hasher.update(part));
        let place = file.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
        place.map(|place| *place = hasher.finalize().to_le_bytes())
    };
    let mut next = || {
        seal(HEADER, &[bytes.get(..HEADER)?])?;
        let mut at = HEADER + 4;
        loop {
            let [k0, k1, v0, v1, lengths @ ..] = *bytes.get(at..)?.first_chunk::<SECTION>()?;
            let kind = at + SECTION + 4;
            let body = kind + usize::from(u16::from_le_bytes([k0, k1]));
            let end = body + u32::from_le_bytes(lengths) as usize;
            let (name, state) = (bytes.get(kind..body)?, bytes.get(body..end)?);
            seal(at + SECTION, &[name, &[v0, v1], state])?;
            at = end;
        }
    };
    let _: Option<()> = next();
    file
}

/// The states of a device and of its transport, memory, and what a guest does that goes on with them: the
/// device's number, each state behind its length, and a program as [`Rig::run`] has it. What was restored can
/// be saved and restored again.
pub fn restore(mut bytes: &[u8]) {
    let _ = go_on(&mut bytes);
}

fn go_on(bytes: &mut &[u8]) -> Result<(), BuildError> {
    let end = || BuildError::Io(io::ErrorKind::UnexpectedEof.into());
    let device = take(bytes).map(u8::from_le_bytes).ok_or_else(end)?;
    let mut state = || {
        let length = take(bytes).map(u8::from_le_bytes).ok_or_else(end)?;
        let (state, rest) = bytes.split_at_checked(length.into()).ok_or_else(end)?;
        *bytes = rest;
        Ok::<_, BuildError>(state.to_vec())
    };
    let transport =
        Section { kind: MmioState::KIND.into(), version: MmioState::VERSION, bytes: state()? };
    let of_device = Section { kind: rig::kind(device).into(), version: 1, bytes: state()? };
    let mut rig = Rig::new(device, &mut States::saved(vec![transport, of_device]))?;
    rig.run(bytes);
    // A server that owes answers is the one reason.
    if let Ok(saved) = rig.save() {
        let again = Rig::new(device, &mut States::saved(saved.into()));
        assert!(again.is_ok(), "{:?}", again.err());
    }
    Ok(())
}

/// What a guest does to a device that it has set up: the device's number, what it does not agree to, and a
/// program as [`Rig::run`] has it.
pub fn device(mut bytes: &[u8]) {
    let bytes = &mut bytes;
    let (Some([device]), Some(without)) = (take(bytes), take(bytes)) else { return };
    let Ok(mut rig) = Rig::new(device, &mut States::power_on()) else { return };
    rig.set_up(u64::from_le_bytes(without));
    rig.run(bytes);
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}
