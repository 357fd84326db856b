//! Reason codes (MQTT 5.0 section 2.4).

/// What an acknowledgement or a DISCONNECT says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::listener) enum Reason {
    Success = 0x00,
    NoSubscriptionExisted = 0x11,
    Unspecified = 0x80,
    Malformed = 0x81,
    Protocol = 0x82,
    UnsupportedVersion = 0x84,
    ClientIdInvalid = 0x85,
    BadLogin = 0x86,
    NotAuthorized = 0x87,
    ServerUnavailable = 0x88,
    ServerBusy = 0x89,
    ShuttingDown = 0x8b,
    BadAuthenticationMethod = 0x8c,
    KeepAliveTimeout = 0x8d,
    TakenOver = 0x8e,
    FilterInvalid = 0x8f,
    TopicInvalid = 0x90,
    PacketIdNotFound = 0x92,
    ReceiveMaximumExceeded = 0x93,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    QuotaExceeded = 0x97,
    RetainNotSupported = 0x9a,
    ConnectionRateExceeded = 0x9f,
    MaximumConnectTime = 0xa0,
}

/// What a client did wrong: the connection ends with it. The text is for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (reason code {code:#04x})", what = .1, code = .0.code())]
pub(in crate::listener) struct Bad(
    pub(in crate::listener) Reason,
    pub(in crate::listener) &'static str,
);

impl Reason {
    /// Its number.
    pub(in crate::listener) fn code(self) -> u8 {
        self as u8
    }
}

impl Bad {
    /// Bytes that are no packet.
    pub(in crate::listener) fn malformed(what: &'static str) -> Self {
        Self(Reason::Malformed, what)
    }

    /// A packet that may not be sent, or not now.
    pub(in crate::listener) fn protocol(what: &'static str) -> Self {
        Self(Reason::Protocol, what)
    }
}
