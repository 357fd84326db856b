//! Frames (RFC 6455, section 5): read in place, written in front of their payload.

/// What a control frame holds at most.
const MAX_CONTROL: usize = 125;
/// Two bytes, eight of an extended length, four of the mask.
const MAX_HEADER: usize = 14;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a peer did wrong, with the code to close the connection with (section 7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("WebSocket: {text}")]
pub(super) struct Violation {
    pub(super) code: u16,
    text: &'static str,
}

impl Violation {
    const fn protocol(text: &'static str) -> Self {
        Self { code: 1002, text }
    }
}

/// What a ping or a close frame holds.
#[derive(Clone, Copy)]
pub(super) struct Control {
    bytes: [u8; MAX_CONTROL],
    length: usize,
}

impl Control {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({} bytes)", self.length)
    }
}

/// Takes the frames of a client apart.
#[derive(Debug)]
pub(super) struct Decoder {
    header: [u8; MAX_HEADER],
    /// Bytes of the header that were read.
    read: usize,
    /// The frame whose payload is read.
    frame: Option<Frame>,
    /// Whether more frames of a message are to come.
    fragmented: bool,
    control: Control,
    /// The newest ping that was not answered: only that one has to be (section 5.5.3).
    pub(super) ping: Option<Control>,
    /// The peer's last frame.
    pub(super) close: Option<Control>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: u8,
    left: u64,
    /// Turned so that its first byte is for the next one of the payload.
    mask: [u8; 4],
}

impl Decoder {
    pub(super) fn new() -> Self {
        let control = Control { bytes: [0; MAX_CONTROL], length: 0 };
        Self {
            header: [0; MAX_HEADER],
            read: 0,
            frame: None,
            fragmented: false,
            control,
            ping: None,
            close: None,
        }
    }

    /// Reads `bytes` as they came; leaves the payload of data frames at their beginning, and answers
    /// with its length. What follows a close frame is not looked at.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() && self.close.is_none() {
            let Some(frame) = &mut self.frame else {
                self.header[self.read] = bytes[at];
                self.read += 1;
                at += 1;
                self.frame = self.parse_header()?;
                // A frame without payload ends here.
                self.end_frame();
                continue;
            };
            let here = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len() - at);
            let payload = at..at + here;
            at += here;
            frame.left -= here as u64;
            unmask(&mut bytes[payload.clone()], &mut frame.mask);
            if frame.opcode >= CLOSE {
                let filled = self.control.length;
                self.control.bytes[filled..filled + here].copy_from_slice(&bytes[payload]);
                self.control.length += here;
            } else {
                bytes.copy_within(payload, kept);
                kept += here;
            }
            self.end_frame();
        }
        Ok(kept)
    }

    fn end_frame(&mut self) {
        let Some(frame) = self.frame.take_if(|frame| frame.left == 0) else { return };
        match frame.opcode {
            PING => self.ping = Some(self.control),
            CLOSE => self.close = Some(self.control),
            _ => {}
        }
    }

    /// The frame that begins, once its header is whole.
    fn parse_header(&mut self) -> Result<Option<Frame>, Violation> {
        let header = &self.header[..self.read];
        let [first, second, rest @ ..] = header else { return Ok(None) };
        let (opcode, short) = (first & 0x0f, second & 0x7f);
        if rest.is_empty() {
            self.check(*first, *second)?;
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((length, mask)) = rest.split_at_checked(extended) else { return Ok(None) };
        let Ok(mask) = <[u8; 4]>::try_from(mask) else { return Ok(None) };
        let left = match length {
            [] => u64::from(short),
            _ => length.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let shortest = match extended {
            2 => left > 125,
            8 => left > 0xffff && left >> 63 == 0,
            _ => true,
        };
        if !shortest {
            return Err(Violation::protocol("length not in its shortest form"));
        }
        self.read = 0;
        if opcode >= CLOSE {
            self.control.length = 0;
        } else {
            self.fragmented = first & FIN == 0;
        }
        Ok(Some(Frame { opcode, left, mask }))
    }

    /// What can be told from the first two bytes.
    fn check(&self, first: u8, second: u8) -> Result<(), Violation> {
        let opcode = first & 0x0f;
        let wrong = match opcode {
            _ if first & 0x70 != 0 => "reserved bits set",
            _ if second & MASKED == 0 => "frame without a mask",
            CONTINUATION if !self.fragmented => "continuation of nothing",
            BINARY if self.fragmented => "new message before the end of the last one",
            CONTINUATION | BINARY => return Ok(()),
            // `[MQTT-6.0.0-1]`
            TEXT => return Err(Violation { code: 1003, text: "text frame; MQTT is binary" }),
            CLOSE | PING | PONG if first & FIN == 0 => "control frame in pieces",
            CLOSE | PING | PONG if usize::from(second & 0x7f) > MAX_CONTROL => {
                "control frame longer than 125 bytes"
            }
            CLOSE if second & 0x7f == 1 => "close code of one byte",
            CLOSE | PING | PONG => return Ok(()),
            _ => "unknown opcode",
        };
        Err(Violation::protocol(wrong))
    }
}

fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let word = u32::from_ne_bytes(*mask);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for four in words {
        *four = (u32::from_ne_bytes(*four) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter()) {
        *byte ^= mask;
    }
    mask.rotate_left(rest.len());
}

/// Appends a binary message of one frame.
pub(super) fn write_binary(payload: &[u8], out: &mut Vec<u8>) {
    write(BINARY, payload, out);
}

/// Appends a pong that answers `ping`.
pub(super) fn write_pong(ping: &Control, out: &mut Vec<u8>) {
    write(PONG, ping.bytes(), out);
}

/// Appends a close frame.
pub(super) fn write_close(code: u16, out: &mut Vec<u8>) {
    write(CLOSE, &code.to_be_bytes(), out);
}

/// A server's frames have no mask (section 5.1).
fn write(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(FIN | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => out.push(length),
        (_, Ok(length)) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests;
