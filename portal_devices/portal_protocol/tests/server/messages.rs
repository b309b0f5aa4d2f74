//! Bytes are a message or an error, both ways: what is read from bytes is written as
//! the same bytes, and nothing panics.

use portal_protocol::FDS_MAX;
use portal_protocol::MESSAGE_MAX;
use portal_protocol::Reply;
use portal_protocol::Request;
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
