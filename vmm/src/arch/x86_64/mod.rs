//! x86_64: a PC without firmware, PCI or ACPI.

pub mod boot;
mod boot_params;
pub mod code;
pub mod cpu;
mod cpuid;
pub mod layout;
mod mp_table;
pub mod state;
