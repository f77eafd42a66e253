//! Is this KVM real?
