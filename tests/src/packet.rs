//! MQTT packets as bytes: what a client sends, and how what comes back is cut into packets.

/// The protocol level of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1
    V4 = 4,
    /// 5
    V5 = 5,
}

/// One packet, cut out of a stream: the first byte and what follows the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Type and flags.
    pub first: u8,
    /// The rest.
    pub body: &'a [u8],
}

/// CONNECT's packet type, shifted into place; so for the others.
pub const CONNECT: u8 = 0x10;
/// CONNACK
pub const CONNACK: u8 = 0x20;
/// PUBLISH
pub const PUBLISH: u8 = 0x30;
/// PUBACK
pub const PUBACK: u8 = 0x40;
/// SUBSCRIBE, with the flags it must have.
pub const SUBSCRIBE: u8 = 0x82;
/// SUBACK
pub const SUBACK: u8 = 0x90;
/// DISCONNECT
pub const DISCONNECT: u8 = 0xe0;

/// A packet of any content.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    write_length(body.len(), &mut out);
    out.extend_from_slice(body);
    out
}

/// A clean CONNECT, keep-alive 60 s.
pub fn connect(version: Version, client_id: &str) -> Vec<u8> {
    login(version, client_id, None)
}

/// The same, with a user name and password.
pub fn login(version: Version, client_id: &str, login: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([version as u8, if login.is_some() { 0xc2 } else { 0x02 }, 0, 60]);
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(text(client_id));
    if let Some((user, password)) = login {
        body.extend(text(user));
        body.extend(text(password));
    }
    packet(CONNECT, &body)
}

/// A PUBLISH without properties; `id` is 0 for QoS 0.
pub fn publish(version: Version, qos: u8, topic: &[u8], id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(payload);
    packet(PUBLISH | qos << 1, &body)
}

/// A SUBSCRIBE to one filter.
pub fn subscribe(version: Version, id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(text(filter));
    body.push(qos);
    packet(SUBSCRIBE, &body)
}

/// A string with its two-byte length.
pub fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

/// A variable byte integer.
pub fn write_length(mut length: usize, out: &mut Vec<u8>) {
    loop {
        let digit = (length % 128) as u8;
        length /= 128;
        out.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            return;
        }
    }
}

/// Cuts the first packet off `bytes`; `None` while it is not complete.
pub fn split(bytes: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let first = *bytes.first()?;
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let rest = bytes.get(at + 2..)?;
            let (body, rest) = rest.split_at_checked(length)?;
            return Some((Packet { first, body }, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_cut_into_the_same_packets() {
        let long = vec![7; 20_000];
        let mut stream = publish(Version::V5, 1, b"a/b", 9, &long);
        stream.extend(packet(PUBACK, &[0, 9]));
        let (first, rest) = split(&stream).unwrap();
        assert_eq!((first.first, first.body.len()), (0x32, 2 + 3 + 2 + 1 + 20_000));
        assert_eq!(split(rest), Some((Packet { first: PUBACK, body: &[0, 9] }, &[][..])));
        for cut in [0, 1, 2, 3, 100, 20_000] {
            assert_eq!(split(&stream[..cut]), None, "{cut}");
        }
    }
}
