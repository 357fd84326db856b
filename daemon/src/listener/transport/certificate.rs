//! What is read in an X.509 certificate (RFC 5280): the names of a client whose certificate rustls has
//! verified, and the end of its validity.
//!
//! A reader of DER that borrows and never allocates before a name is found. Anything unexpected is "not
//! there": what it cannot read it does not vouch for.

use tidegate_config::ClientName;

/// Bytes of a client's name: it becomes a user.
const MAX_NAME: usize = 256;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const IA5: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT` version, `[3] EXPLICIT` extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// id-at-commonName, id-ce-subjectAltName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The parts of a certificate that are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'c> {
    validity: Der<'c>,
    subject: Der<'c>,
    extensions: Option<Der<'c>>,
}

/// DER elements that follow each other.
#[derive(Debug, Clone, Copy)]
struct Der<'c>(&'c [u8]);

impl<'c> Der<'c> {
    /// The next element: its tag and what it holds.
    fn next(&mut self) -> Option<(u8, &'c [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&short, mut rest) = rest.split_first()?;
        let length = match short {
            0..=0x7f => usize::from(short),
            // Lengths of up to three bytes: no certificate is larger.
            0x81..=0x83 => {
                let (bytes, after) = rest.split_at_checked(usize::from(short & 0x7f))?;
                rest = after;
                bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The next element, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<Der<'c>> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| Der(content))
    }

    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }
}

impl<'c> Parts<'c> {
    /// Finds them in a certificate, DER.
    pub(super) fn of(certificate: &'c [u8]) -> Option<Self> {
        let mut signed = Der(certificate).expect(SEQUENCE)?;
        let mut tbs = signed.expect(SEQUENCE)?;
        if tbs.peek() == Some(VERSION) {
            tbs.next()?;
        }
        let (_serial, _signature, _issuer) = (tbs.next()?, tbs.next()?, tbs.expect(SEQUENCE)?);
        let validity = tbs.expect(SEQUENCE)?;
        let subject = tbs.expect(SEQUENCE)?;
        let _public_key = tbs.expect(SEQUENCE)?;
        let mut extensions = None;
        while let Some((tag, content)) = tbs.next() {
            if tag == EXTENSIONS {
                extensions = Some(Der(content).expect(SEQUENCE)?);
            }
        }
        Some(Self { validity, subject, extensions })
    }

    /// The end of its validity, in seconds since 1970.
    pub(super) fn not_after(mut self) -> Option<i64> {
        let (_not_before, (tag, time)) = (self.validity.next()?, self.validity.next()?);
        unix_seconds(tag, time)
    }

    /// The name that the listener goes by; none where it is not there, empty, not text, or longer than
    /// [`MAX_NAME`].
    pub(super) fn name(self, wanted: ClientName) -> Option<&'c str> {
        let name = match wanted {
            ClientName::CommonName => self.common_name(),
            ClientName::Email => self.alternative_name(0x81),
            ClientName::Dns => self.alternative_name(0x82),
            ClientName::Uri => self.alternative_name(0x86),
        }?;
        let fits = (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
        fits.then_some(name)
    }

    fn common_name(mut self) -> Option<&'c str> {
        while let Some(mut set) = self.subject.expect(SET) {
            while let Some(mut attribute) = set.expect(SEQUENCE) {
                if attribute.expect(OID)?.0 != COMMON_NAME {
                    continue;
                }
                let (tag, text) = attribute.next()?;
                return matches!(tag, UTF8 | PRINTABLE | IA5)
                    .then(|| std::str::from_utf8(text).ok())
                    .flatten();
            }
        }
        None
    }

    fn alternative_name(self, kind: u8) -> Option<&'c str> {
        let mut extensions = self.extensions?;
        while let Some(mut extension) = extensions.expect(SEQUENCE) {
            if extension.expect(OID)?.0 != ALTERNATIVE_NAME {
                continue;
            }
            if extension.peek() == Some(BOOLEAN) {
                extension.next()?;
            }
            let mut names = extension.expect(OCTETS)?.expect(SEQUENCE)?;
            while let Some((tag, name)) = names.next() {
                if tag == kind {
                    return std::str::from_utf8(name).ok().filter(|name| name.is_ascii());
                }
            }
        }
        None
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5).
fn unix_seconds(tag: u8, time: &[u8]) -> Option<i64> {
    let digits = time.strip_suffix(b"Z").filter(|time| time.iter().all(u8::is_ascii_digit))?;
    let number = |at: usize, length: usize| -> Option<i64> {
        let digits = digits.get(at..at + length)?;
        Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    };
    let (year, at) = match tag {
        UTC_TIME if digits.len() == 12 => {
            let year = number(0, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        GENERALIZED_TIME if digits.len() == 14 => (number(0, 4)?, 4),
        _ => return None,
    };
    let (month, day) = (number(at, 2)?, number(at + 2, 2)?);
    let (hour, minute, second) = (number(at + 4, 2)?, number(at + 6, 2)?, number(at + 8, 2)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    // Days since 1970 in a year that begins in March, so that the leap day is its last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day
            - 1
            - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests;
