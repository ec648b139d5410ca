//! Finds the boundaries of frames and messages in the bytes of a client (RFC 6455, section 5.2), to
//! account the memory of a connection. The WebSocket library interprets and validates the frames.

/// The maximum length of a frame's header.
const MAX_HEADER_BYTES: usize = 14;

/// An event in the stream of bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A data frame starts; `message_bytes` is the size of the message including it.
    Frame { message_bytes: u64 },
    /// Payload of a data frame, still masked. The mask is rotated to its first byte.
    Payload { bytes: &'a [u8], mask: [u8; 4] },
    /// The last frame of a message ends.
    MessageEnd,
}

/// A reader of frame headers.
#[derive(Debug, Default)]
pub struct FrameReader {
    header: [u8; MAX_HEADER_BYTES],
    header_len: usize,
    frame: Option<Frame>,
    /// Bytes of the message's frames so far, including all of the current one.
    message_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    is_data: bool,
    is_last: bool,
    remaining: u64,
    mask: [u8; 4],
}

impl FrameReader {
    /// Returns the next event and the number of bytes consumed. `None`: all bytes were consumed
    /// without an event.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Option<(Step<'a>, usize)> {
        let mut consumed = 0;
        loop {
            let rest = bytes.get(consumed..).unwrap_or_default();
            let Some(frame) = &mut self.frame else {
                consumed += self.read_header(rest)?;
                if let Some(Frame { is_data: true, .. }) = self.frame {
                    return Some((Step::Frame { message_bytes: self.message_bytes }, consumed));
                }
                continue;
            };
            if frame.remaining == 0 {
                let ended = frame.is_data && frame.is_last;
                self.frame = None;
                if ended {
                    self.message_bytes = 0;
                    return Some((Step::MessageEnd, consumed));
                }
                continue;
            }
            if rest.is_empty() {
                return None;
            }
            let len = usize::try_from(frame.remaining).map_or(rest.len(), |remaining| remaining.min(rest.len()));
            let mask = frame.mask;
            frame.remaining -= len as u64;
            frame.mask.rotate_left(len % 4);
            consumed += len;
            if frame.is_data {
                return Some((Step::Payload { bytes: rest.get(..len).unwrap_or_default(), mask }, consumed));
            }
        }
    }

    /// Consumes bytes of a header; returns how many once it is complete.
    fn read_header(&mut self, bytes: &[u8]) -> Option<usize> {
        for (consumed, byte) in (1..).zip(bytes) {
            if let Some(slot) = self.header.get_mut(self.header_len) {
                *slot = *byte;
                self.header_len += 1;
            }
            if let Some(frame) = parse(self.header.get(..self.header_len).unwrap_or_default()) {
                self.header_len = 0;
                if frame.is_data {
                    self.message_bytes = self.message_bytes.saturating_add(frame.remaining);
                }
                self.frame = Some(frame);
                return Some(consumed);
            }
        }
        None
    }
}

/// Parses a complete header.
fn parse(header: &[u8]) -> Option<Frame> {
    let (&[first, second], rest) = header.split_first_chunk()?;
    let (remaining, rest) = match second & 0x7f {
        126 => rest.split_first_chunk().map(|(len, rest)| (u64::from(u16::from_be_bytes(*len)), rest))?,
        127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len), rest))?,
        len => (u64::from(len), rest),
    };
    let mask = if second & 0x80 == 0 { [0; 4] } else { *rest.first_chunk()? };
    // Opcodes from 8 are control frames, which may occur between the frames of a message.
    Some(Frame { is_data: first & 0x08 == 0, is_last: first & 0x80 != 0, remaining, mask })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A masked frame; `first` is its first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len @ 126..65_536 => {
                frame.push(0xfe);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(0xff);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// Reads the messages of a stream that arrives in chunks, each with its last announced size.
    fn read(stream: &[u8], pieces: usize) -> Vec<(Vec<u8>, u64)> {
        let (mut reader, mut messages) = (FrameReader::default(), Vec::new());
        let (mut message, mut announced) = (Vec::new(), 0);
        for piece in stream.chunks(pieces.max(1)) {
            let mut rest = piece;
            while let Some((step, consumed)) = reader.step(rest) {
                rest = &rest[consumed..];
                match step {
                    Step::Frame { message_bytes } => announced = message_bytes,
                    Step::Payload { bytes, mask } => {
                        message.extend(bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
                    }
                    Step::MessageEnd => messages.push((std::mem::take(&mut message), announced)),
                }
            }
        }
        messages
    }

    #[test]
    fn control_frames_between_fragments_are_not_part_of_the_message() {
        let stream = [frame(0x01, b"one "), frame(0x89, b"ping"), frame(0x80, b"two"), frame(0x81, b"")].concat();
        assert_eq!(read(&stream, 1), [(b"one two".to_vec(), 7), (Vec::new(), 0)]);
    }

    proptest! {
        #[test]
        fn messages_are_separated_independent_of_chunking(
            sizes in proptest::collection::vec(prop_oneof![0_usize..200, Just(65_535), Just(65_536)], 1..5), pieces in 1_usize..5_000
        ) {
            let expected: Vec<_> = sizes.iter().map(|size| ((0..*size).map(|n| n as u8).collect::<Vec<_>>(), *size as u64)).collect();
            let stream: Vec<u8> = expected.iter().flat_map(|(payload, _)| frame(0x81, payload)).collect();
            prop_assert_eq!(read(&stream, pieces), expected);
        }
    }
}
