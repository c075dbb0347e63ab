//! One frame: what one group commit writes (`FORMAT.md`, "A frame").

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 32;

/// Frames start at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;

/// The payload's format. To change it: raise this, keep a decoder for every older number in `record.rs`, and add a
/// folder written by the old version to the tests.
pub(crate) const PAYLOAD_VERSION: u16 = 1;

/// What makes a frame valid in one place only: the checksum is seeded with the file's epoch, its salt, and the frame's
/// offset. So a stale frame of a recycled file can't pass, nor can one that lies inside of a message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) epoch: u64,
    pub(crate) salt: u64,
}

/// A frame that was found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) lsn: u64,
    pub(crate) version: u16,
    pub(crate) payload: &'a [u8],
}

/// Bytes that a frame with such a payload takes in its file.
pub(crate) const fn frame_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGNMENT)
}

impl Seal {
    fn crc(self, offset: u32, bytes: &[u8]) -> u32 {
        let mut seed = [0u8; 20];
        seed[..8].copy_from_slice(&self.epoch.to_le_bytes());
        seed[8..16].copy_from_slice(&self.salt.to_le_bytes());
        seed[16..].copy_from_slice(&offset.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c(&seed), bytes)
    }

    /// Fills in the header and the padding of a frame that is built in `buffer`, whose payload stands at
    /// [`HEADER_BYTES`] and ends with the buffer.
    pub(crate) fn close(self, buffer: &mut Vec<u8>, lsn: u64, offset: u32) {
        let payload_bytes = buffer.len() - HEADER_BYTES;
        buffer.resize(frame_bytes(payload_bytes), 0);
        buffer[4..8].copy_from_slice(&u32::try_from(payload_bytes).expect("a frame fits into its file").to_le_bytes());
        buffer[8..16].copy_from_slice(&lsn.to_le_bytes());
        buffer[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        buffer[24..26].copy_from_slice(&PAYLOAD_VERSION.to_le_bytes());
        buffer[26..32].fill(0);
        let crc = self.crc(offset, &buffer[4..]);
        buffer[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The frame at `offset` of a file's bytes, if there is a whole one.
    pub(crate) fn read(self, file: &[u8], offset: usize) -> Option<Frame<'_>> {
        self.read_in(file, offset, u32::try_from(offset).ok()?)
    }

    /// The frame at `at` in a part of a file, which stands at `offset` of the file itself.
    pub(crate) fn read_in(self, part: &[u8], at: usize, offset: u32) -> Option<Frame<'_>> {
        let header = part.get(at..at.checked_add(HEADER_BYTES)?)?;
        if le_u64(&header[16..24]) != self.epoch {
            return None;
        }
        let payload_bytes = le_u32(&header[4..8]) as usize;
        let end = at.checked_add(HEADER_BYTES)?.checked_add(payload_bytes)?.checked_next_multiple_of(ALIGNMENT)?;
        let bytes = part.get(at..end)?;
        if self.crc(offset, &bytes[4..]) != le_u32(&header[..4]) {
            return None;
        }
        Some(Frame {
            lsn: le_u64(&header[8..16]),
            version: u16::from_le_bytes([header[24], header[25]]),
            payload: &bytes[HEADER_BYTES..HEADER_BYTES + payload_bytes],
        })
    }

    /// How long the frame at `at` in a part of a file says that it is. None if it is not one of this file's, or if the part
    /// ends before that is known.
    pub(crate) fn len_in(self, part: &[u8], at: usize) -> Option<usize> {
        let header = part.get(at..at.checked_add(HEADER_BYTES)?)?;
        (le_u64(&header[16..24]) == self.epoch).then(|| frame_bytes(le_u32(&header[4..8]) as usize))
    }

    /// The first whole frame at or after `offset`. It looks everywhere a frame may start.
    pub(crate) fn find(self, file: &[u8], offset: usize) -> Option<(usize, Frame<'_>)> {
        (offset.next_multiple_of(ALIGNMENT)..file.len())
            .step_by(ALIGNMENT)
            .find_map(|at| self.read(file, at).map(|frame| (at, frame)))
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

fn le_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Seal = Seal { epoch: 7, salt: 0xfeed };

    fn frame(payload: &[u8], lsn: u64, offset: u32) -> Vec<u8> {
        let mut buffer = vec![0; HEADER_BYTES];
        buffer.extend_from_slice(payload);
        SEAL.close(&mut buffer, lsn, offset);
        buffer
    }

    #[test]
    fn a_frame_reads_back_and_no_flipped_bit_passes() {
        for payload in [&b""[..], b"x", b"12345678", &[9; 100]] {
            let bytes = frame(payload, 3, 512);
            assert_eq!(bytes.len() % ALIGNMENT, 0);
            let mut file = vec![0; 512];
            file.extend_from_slice(&bytes);
            assert_eq!(SEAL.read(&file, 512), Some(Frame { lsn: 3, version: PAYLOAD_VERSION, payload }));
            for bit in 0..bytes.len() * 8 {
                file[512 + bit / 8] ^= 1 << (bit % 8);
                assert_eq!(SEAL.read(&file, 512), None, "bit {bit}");
                file[512 + bit / 8] ^= 1 << (bit % 8);
            }
            for cut in 0..bytes.len() {
                assert_eq!(SEAL.read(&file[..512 + cut], 512), None);
            }
        }
    }

    #[test]
    fn a_frame_is_valid_in_its_own_place_only() {
        let mut file = vec![0; 1024];
        let bytes = frame(b"payload", 3, 512);
        file[512..512 + bytes.len()].copy_from_slice(&bytes);
        file[640..640 + bytes.len()].copy_from_slice(&bytes);
        assert_eq!(SEAL.read(&file, 640), None);
        assert_eq!(Seal { salt: 1, ..SEAL }.read(&file, 512), None);
        assert_eq!(Seal { epoch: 8, ..SEAL }.read(&file, 512), None);
        assert_eq!(SEAL.find(&file, 8).map(|(at, frame)| (at, frame.lsn)), Some((512, 3)));
        assert_eq!(SEAL.find(&file, 513), None);
    }
}
