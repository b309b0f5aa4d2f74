//! Bytes as messages, in both directions: what is read is written as the same bytes,
//! or read again as the same message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portal_protocol::Reply;
use portal_protocol::Request;

fuzz_target!(|input: &[u8]| {
    let Some((fds, bytes)) = input.split_first() else {
        return;
    };
    let (fds, mut bytes) = (*fds, bytes.to_vec());
    // The length is easy to get right and stands in front of everything else.
    let len = bytes.len() as u32;
    if let Some(at) = bytes.get_mut(4..8) {
        at.copy_from_slice(&len.to_le_bytes());
    }
    if let Ok(request) = Request::decode(&bytes, fds.into()) {
        assert_eq!(request.encode(), bytes);
        assert_eq!(request.fds(), usize::from(fds));
    }
    if let Ok(reply) = Reply::decode(&bytes, fds.into()) {
        assert_eq!(reply.fds(), usize::from(fds));
        assert_eq!(Reply::decode(&reply.encode(), fds.into()), Ok(reply));
    }
});
