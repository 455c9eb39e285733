//! The snapshot mounts that containerd hands over, as the guest's drives.
