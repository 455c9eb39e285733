//! Packets: the header that comes before each one's data (virtio 1.3 §5.10.6).

/// Length of a header.
pub const HEADER_LEN: usize = 44;

/// The host's CID: the only one besides the guest's own that packets go to or come from.
pub const HOST_CID: u64 = 2;

/// VIRTIO_VSOCK_TYPE_STREAM, the only type offered.
pub const STREAM: u16 = 1;

/// The side that sends this won't receive any more (VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE).
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// The side that sends this won't send any more (VIRTIO_VSOCK_SHUTDOWN_F_SEND).
pub const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for.
pub mod op {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Accepts one.
    pub const RESPONSE: u16 = 2;
    /// Ends one at once, or refuses.
    pub const RST: u16 = 3;
    /// One or both directions are done with.
    pub const SHUTDOWN: u16 = 4;
    /// Data.
    pub const RW: u16 = 5;
    /// Only tells of `buf_alloc` and `fwd_cnt`.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks for a CREDIT_UPDATE.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// A header's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    /// Bytes of data behind the header.
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    /// The sender's space for data that it receives in this connection.
    pub buf_alloc: u32,
    /// How many bytes of that data the sender has passed on, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// Little-endian, as it lies in guest memory.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The reverse of [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        fn at<const N: usize>(bytes: &[u8; HEADER_LEN], offset: usize) -> [u8; N] {
            std::array::from_fn(|i| bytes[offset + i])
        }
        Self {
            src_cid: u64::from_le_bytes(at(bytes, 0)),
            dst_cid: u64::from_le_bytes(at(bytes, 8)),
            src_port: u32::from_le_bytes(at(bytes, 16)),
            dst_port: u32::from_le_bytes(at(bytes, 20)),
            len: u32::from_le_bytes(at(bytes, 24)),
            kind: u16::from_le_bytes(at(bytes, 28)),
            op: u16::from_le_bytes(at(bytes, 30)),
            flags: u32::from_le_bytes(at(bytes, 32)),
            buf_alloc: u32::from_le_bytes(at(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(at(bytes, 40)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_its_fields_where_the_specification_puts_them() {
        let header = Header {
            src_cid: 0x0101_0101_0101_0101,
            dst_cid: 0x0202_0202_0202_0202,
            src_port: 0x0303_0303,
            dst_port: 0x0404_0404,
            len: 0x0505_0505,
            kind: 0x0606,
            op: 0x0707,
            flags: 0x0808_0808,
            buf_alloc: 0x0909_0909,
            fwd_cnt: 0x0a0a_0a0a,
        };
        let bytes = header.to_bytes();
        let expected: Vec<u8> = [8, 8, 4, 4, 4, 2, 2, 4, 4, 4]
            .into_iter()
            .zip(1u8..)
            .flat_map(|(len, value)| vec![value; len])
            .collect();
        assert_eq!(bytes.as_slice(), expected);
        assert_eq!(Header::from_bytes(&bytes), header);
    }
}
