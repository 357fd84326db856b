use proptest::prelude::*;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;

/// `/O=Plant 4/CN=boiler-7/emailAddress=…` with alternative names of every kind, until 2126; made by
/// OpenSSL. Nobody has its key.
const NAMED: &[u8] = include_bytes!("named.pem");
/// `/O=Plant 4` and no more, until 2036.
const UNNAMED: &[u8] = include_bytes!("unnamed.pem");

fn der(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).unwrap()
}

#[test]
fn the_name_is_the_one_that_the_listener_goes_by() {
    let der = der(NAMED);
    let parts = Parts::of(&der).unwrap();
    assert_eq!(parts.name(ClientName::CommonName), Some("boiler-7"));
    assert_eq!(parts.name(ClientName::Dns), Some("boiler-7.plant.example"));
    assert_eq!(parts.name(ClientName::Uri), Some("urn:device:boiler-7"));
    assert_eq!(parts.name(ClientName::Email), Some("boiler-7@plant.example"));
}

#[test]
fn a_name_that_is_not_there_is_not_made_up() {
    let der = der(UNNAMED);
    let parts = Parts::of(&der).unwrap();
    for wanted in [ClientName::CommonName, ClientName::Dns, ClientName::Uri, ClientName::Email] {
        assert_eq!(parts.name(wanted), None);
    }
}

#[test]
fn a_name_that_is_no_plain_text_is_none() {
    // The same length each time, so that the certificate stays one.
    for bad in [&b"boiler\x007"[..], b"boiler\n7", b"boiler\xff7"] {
        let mut der = der(NAMED).to_vec();
        while let Some(at) = der.windows(8).position(|window| window == b"boiler-7") {
            der[at..at + 8].copy_from_slice(bad);
        }
        let parts = Parts::of(&der).unwrap();
        assert_eq!(parts.name(ClientName::CommonName), None, "{bad:?}");
        assert_eq!(parts.name(ClientName::Uri), None, "{bad:?}");
    }
}

#[test]
fn both_ways_to_write_a_time_are_read() {
    assert_eq!(Parts::of(&der(NAMED)).unwrap().not_after(), Some(4_948_874_921));
    assert_eq!(Parts::of(&der(UNNAMED)).unwrap().not_after(), Some(2_110_634_921));
    assert_eq!(unix_seconds(UTC_TIME, b"700101000000Z"), Some(0));
    assert_eq!(unix_seconds(UTC_TIME, b"240229235959Z"), Some(1_709_251_199));
    assert_eq!(unix_seconds(GENERALIZED_TIME, b"20500101000000Z"), Some(2_524_608_000));
    for wrong in [&b"240229235959"[..], b"24022923595Z", b"2402292359590Z", b"240029235959Z", b"x"]
    {
        assert_eq!(unix_seconds(UTC_TIME, wrong), None);
    }
}

#[test]
fn a_certificate_that_ends_anywhere_is_no_panic() {
    let der = der(NAMED);
    for end in 0..der.len() {
        assert!(Parts::of(&der[..end]).is_none());
    }
}

proptest! {
    #[test]
    fn no_change_to_a_certificate_makes_it_panic(at in 0usize..590, byte: u8) {
        let mut der = der(NAMED).to_vec();
        let at = at % der.len();
        der[at] = byte;
        if let Some(parts) = Parts::of(&der) {
            let _ = (parts.not_after(), parts.name(ClientName::CommonName), parts.name(ClientName::Uri));
        }
    }
}
