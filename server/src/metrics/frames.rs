//! The messages of a gRPC stream, counted as their bytes go by.
//!
//! Promise: nothing is kept but a length; what is no gRPC framing is miscounted, never read.
//! Source: gRPC over HTTP/2, "Length-Prefixed-Message".

/// A flag and a length, then the message.
const HEAD_BYTES: usize = 5;

#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES],
    head_filled: usize,
    /// Of the message that goes by.
    left: usize,
}

/// What began in one piece of a stream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub messages: u64,
    /// Without their heads.
    pub bytes: u64,
}

impl Frames {
    pub fn see(&mut self, mut piece: &[u8]) -> Seen {
        let mut seen = Seen::default();
        while !piece.is_empty() {
            let of_message = self.left.min(piece.len());
            self.left -= of_message;
            piece = &piece[of_message..];
            let of_head = (HEAD_BYTES - self.head_filled).min(piece.len());
            self.head[self.head_filled..][..of_head].copy_from_slice(&piece[..of_head]);
            self.head_filled += of_head;
            piece = &piece[of_head..];
            if self.head_filled == HEAD_BYTES {
                let [_, length @ ..] = self.head;
                let length = u32::from_be_bytes(length);
                self.left = usize::try_from(length).unwrap_or(usize::MAX);
                self.head_filled = 0;
                seen.messages += 1;
                seen.bytes += u64::from(length);
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut stream = Vec::new();
        for length in [0_u32, 3, 300] {
            stream.push(0);
            stream.extend(length.to_be_bytes());
            stream.extend(vec![7; length as usize]);
        }
        for cut in [1, 2, 5, 6, 7, 100, stream.len()] {
            let mut frames = Frames::default();
            let mut total = Seen::default();
            for piece in stream.chunks(cut) {
                let seen = frames.see(piece);
                total.messages += seen.messages;
                total.bytes += seen.bytes;
            }
            let wanted = Seen {
                messages: 3,
                bytes: 303,
            };
            assert_eq!(total, wanted, "pieces of {cut}");
        }
    }
}
