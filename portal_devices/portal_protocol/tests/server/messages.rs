//! Bytes are a message or an error, both ways: what is read from bytes is written as
//! the same bytes, and nothing panics.

use portal_protocol::FDS_MAX;
use portal_protocol::MESSAGE_MAX;
use portal_protocol::Refusal;
use portal_protocol::RefusalCode;
use portal_protocol::Reply;
use portal_protocol::Request;
use portal_protocol::TEXT_MAX;
use proptest::prelude::*;

/// A header that fits, more often than chance has it.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..160),
        prop::collection::vec(0..4u8, 0..160),
        prop::collection::vec(any::<u8>(), MESSAGE_MAX - 20..MESSAGE_MAX + 20),
    ];
    let kind = prop_oneof![0..0x20u16, 0x80..0xa0u16, any::<u16>()];
    (kind, body, 0..16u8).prop_map(|(kind, body, spoil)| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 2]);
        bytes.extend((body.len() as u32 + 8).to_le_bytes());
        bytes.extend(body);
        if spoil == 0 {
            bytes.pop();
        }
        bytes
    })
}

proptest! {
    #[test]
    fn a_request_is_its_bytes(bytes in message(), fds in 0..=FDS_MAX + 1) {
        if let Ok(request) = Request::decode(&bytes, fds) {
            prop_assert_eq!(request.encode(), bytes);
            prop_assert_eq!(request.fds(), fds);
        }
    }

    #[test]
    fn a_reply_is_its_bytes(bytes in message(), fds in 0..=FDS_MAX + 1) {
        if let Ok(reply) = Reply::decode(&bytes, fds) {
            prop_assert_eq!(reply.fds(), fds);
            let again = Reply::decode(&reply.encode(), fds);
            prop_assert_eq!(again, Ok(reply));
        }
    }
}

/// What stands in for a byte that is no text takes three.
#[test]
fn a_reason_that_is_no_text_is_no_longer_than_one() {
    let reason = Refusal {
        code: RefusalCode::Other,
        text: "x".repeat(TEXT_MAX),
    };
    let mut bytes = Reply::Refused(reason).encode();
    let text = bytes.len() - TEXT_MAX;
    bytes[text..].fill(0xff);
    let reply = Reply::decode(&bytes, 0).expect("a refusal");
    assert!(matches!(&reply, Reply::Refused(r) if r.text.len() <= TEXT_MAX));
    assert_eq!(Reply::decode(&reply.encode(), 0), Ok(reply));
}
