//! Takes a packet's body apart (MQTT 5.0 section 1.5).

use super::reason::Bad;

/// What is left of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

/// A property's value, by the type that its identifier has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u32),
    Text(&'a str),
    Data(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// Property identifiers (MQTT 5.0 table 2-4).
pub(super) mod id {
    pub(in super::super) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(in super::super) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(in super::super) const CONTENT_TYPE: u8 = 0x03;
    pub(in super::super) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in super::super) const CORRELATION_DATA: u8 = 0x09;
    pub(in super::super) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(in super::super) const SESSION_EXPIRY: u8 = 0x11;
    pub(in super::super) const AUTH_METHOD: u8 = 0x15;
    pub(in super::super) const AUTH_DATA: u8 = 0x16;
    pub(in super::super) const REQUEST_PROBLEM_INFO: u8 = 0x17;
    pub(in super::super) const WILL_DELAY: u8 = 0x18;
    pub(in super::super) const REQUEST_RESPONSE_INFO: u8 = 0x19;
    pub(in super::super) const REASON_STRING: u8 = 0x1f;
    pub(in super::super) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in super::super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(in super::super) const TOPIC_ALIAS: u8 = 0x23;
    pub(in super::super) const USER: u8 = 0x26;
    pub(in super::super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
}

impl<'a> Input<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Bad::malformed("length that reaches beyond the packet"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Bad> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn two(&mut self) -> Result<u16, Bad> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn four(&mut self) -> Result<u32, Bad> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A variable byte integer.
    pub(super) fn varint(&mut self) -> Result<u32, Bad> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte == 0 && shift > 0 {
                break;
            }
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Bad::malformed("variable byte integer of more bytes than it needs, or than four"))
    }

    /// Binary data.
    pub(super) fn data(&mut self) -> Result<&'a [u8], Bad> {
        let length = self.two()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 string (`[MQTT-1.5.4-1]`, `[MQTT-1.5.4-2]`).
    pub(super) fn text(&mut self) -> Result<&'a str, Bad> {
        let data = self.data()?;
        if data.contains(&0) {
            return Err(Bad::malformed("null character in a string"));
        }
        std::str::from_utf8(data).map_err(|_| Bad::malformed("string that is not UTF-8"))
    }

    /// A packet identifier (`[MQTT-2.2.1-3]`).
    pub(super) fn packet_id(&mut self) -> Result<u16, Bad> {
        match self.two()? {
            0 => Err(Bad::malformed("packet identifier 0")),
            id => Ok(id),
        }
    }

    /// A list of properties: calls `each` with the identifier and value of every one. Those in
    /// `allowed` may stand there, once, but for [`id::USER`].
    pub(super) fn properties(
        &mut self,
        allowed: &[u8],
        mut each: impl FnMut(u8, Value<'a>) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        let length = self.varint()? as usize;
        let mut list = Input(self.take(length)?);
        let mut seen = 0_u64;
        while !list.is_empty() {
            let identifier = list.byte()?;
            if !allowed.contains(&identifier) {
                return Err(Bad::malformed("property that this packet cannot have"));
            }
            if identifier != id::USER && seen & (1 << identifier) != 0 {
                return Err(Bad::protocol("property that stands there twice"));
            }
            seen |= 1 << identifier;
            let value = list.value(identifier)?;
            each(identifier, value)?;
        }
        Ok(())
    }

    fn value(&mut self, identifier: u8) -> Result<Value<'a>, Bad> {
        Ok(match identifier {
            id::PAYLOAD_FORMAT | id::REQUEST_PROBLEM_INFO | id::REQUEST_RESPONSE_INFO => {
                match self.byte()? {
                    flag @ 0..=1 => Value::Number(flag.into()),
                    _ => return Err(Bad::protocol("property that is neither 0 nor 1")),
                }
            }
            id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::TOPIC_ALIAS => {
                Value::Number(self.two()?.into())
            }
            id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::MAXIMUM_PACKET_SIZE => {
                Value::Number(self.four()?)
            }
            id::SUBSCRIPTION_ID => Value::Number(self.varint()?),
            id::CORRELATION_DATA | id::AUTH_DATA => Value::Data(self.data()?),
            id::USER => Value::Pair(self.text()?, self.text()?),
            _ => Value::Text(self.text()?),
        })
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), Bad> {
        match self.0 {
            [] => Ok(()),
            _ => Err(Bad::malformed("bytes behind the end of a packet's content")),
        }
    }
}
