/*
 * hv_shmem for C: attach to a Portal region, allocate spans in one's own
 * section, send and receive them through rings.
 *
 * Made by cbindgen from hv_shmem/capi; do not edit. `PORTAL_BLESS=1 cargo test
 * -p hv_shmem_c --test header` makes it anew. Link with libhv_shmem_c.
 */

#ifndef HV_SHMEM_H
#define HV_SHMEM_H

#include <stdint.h>
#include <stdbool.h>
#include <stddef.h>

// What a call came to.
typedef enum {
  // Done.
  PORTAL_STATUS_OK = 0,
  // Nothing there yet (no message, no such ring, no peer): ask again.
  PORTAL_STATUS_EMPTY = 1,
  // No space just now (ring full): ask again.
  PORTAL_STATUS_FULL = 2,
  // A null pointer, text that is no UTF-8, or a number out of range.
  PORTAL_STATUS_ARGUMENT = 3,
  // The region or its backing cannot be used.
  PORTAL_STATUS_REGION = 4,
  // The arena has no room, or the span is not this peer's.
  PORTAL_STATUS_ARENA = 5,
  // The span does not resolve: stale, out of bounds, not granted.
  PORTAL_STATUS_SPAN = 6,
  // The other peer broke the rules of the ring or the directory.
  PORTAL_STATUS_VIOLATION = 7,
  // Another failure of this side.
  PORTAL_STATUS_INTERNAL = 8,
} PortalStatus;

// A peer of a region: its own section, its arena, the spans that it holds.
typedef struct PortalPeer PortalPeer;

// The receiving end of a ring.
typedef struct PortalReceiver PortalReceiver;

// An attached region.
typedef struct PortalRegion PortalRegion;

// The sending end of a ring.
typedef struct PortalSender PortalSender;

// What a region's header says.
typedef struct {
  // UUID, in the byte order of RFC 9562.
  uint8_t uuid[16];
  // Name, NUL-padded; 32 bytes long names have no NUL.
  uint8_t name[32];
  // Generation, from 1.
  uint64_t generation;
  // Size in bytes.
  uint64_t size;
  // Size of the common section in bytes.
  uint64_t common_size;
  // Size of each output section in bytes.
  uint64_t section_size;
  // Number of peers.
  uint16_t max_peers;
} PortalRegionInfo;

// The name of some bytes in a region: what travels between peers. Only
// resolving it (`portal_read`) gives access.
typedef struct {
  // Low 32 bits of the region's UUID.
  uint32_t region;
  // Peer that owns the bytes; 0xffff for the common section.
  uint16_t section;
  // 0.
  uint16_t flags;
  // First byte, from the start of the section.
  uint64_t offset;
  // Length in bytes.
  uint64_t length;
  // Generation of the block.
  uint32_t generation;
  // Epoch of the owner.
  uint32_t epoch;
} PortalSpan;

// A request with a span.
typedef struct {
  // What to do; the two peers agree on the numbers.
  uint32_t opcode;
  // Variations of it.
  uint32_t flags;
  // Comes back in an answer, by custom.
  uint64_t user_data;
  // The bytes that the request is about; all zeros for none.
  PortalSpan span;
  // An immediate argument.
  uint64_t arg;
} PortalMessage;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Copies the sentence of this thread's last failure to `text`, cut to `size`
// bytes with the closing NUL. Gives the length of the whole sentence in bytes,
// without NUL. `text` may be NULL when `size` is 0.
//
// # Safety
// `text` points to `size` writable bytes, or `size` is 0.
size_t portal_last_error(char *text, size_t size);

// Attaches to the region in the file at `path` (NUL-terminated).
//
// # Safety
// `path` is a C string; `out` is writable.
PortalStatus portal_attach(const char *path, PortalRegion **out);

// Attaches to the region behind an fd of a flat backing (a memfd or a file that
// is open for reading and writing). The fd stays the caller's.
//
// # Safety
// `fd` is open; `out` is writable.
PortalStatus portal_attach_fd(int fd, PortalRegion **out);

// Lets go of a region. Peers joined through it stay. NULL does nothing.
//
// # Safety
// `region` came from `portal_attach` and is not used again.
void portal_detach(PortalRegion *region);

// What the region's header said when it was attached.
//
// # Safety
// `region` is a live handle; `out` is writable.
PortalStatus portal_info(PortalRegion *region, PortalRegionInfo *out);

// The epoch of a peer that is alive; `PORTAL_STATUS_EMPTY` when it is not.
//
// # Safety
// `region` is a live handle; `out` is writable.
PortalStatus portal_peer_epoch(PortalRegion *region, uint16_t peer, uint32_t *out);

// Joins as peer `me`, which the host has admitted under `epoch`: formats its
// section with `directory` ring entries, `ring_bytes` bytes for rings, and an
// arena in the rest.
//
// # Safety
// `region` is a live handle; `out` is writable.
PortalStatus portal_join(PortalRegion *region,
                         uint16_t me,
                         uint32_t epoch,
                         uint32_t directory,
                         uint64_t ring_bytes,
                         PortalPeer **out);

// Counts the peer's heartbeat up; `PORTAL_STATUS_REGION` when the host has
// declared this peer dead, and it must not go on.
//
// # Safety
// `peer` is a live handle.
PortalStatus portal_beat(PortalPeer *peer);

// Closes the peer's section. Senders and receivers of it stay mapped until they
// are closed, but others leave them alone. NULL does nothing.
//
// # Safety
// `peer` came from `portal_join` and is not used again.
void portal_leave(PortalPeer *peer);

// Allocates `length` zero bytes in the peer's own section.
//
// # Safety
// `peer` is a live handle; `out` is writable.
PortalStatus portal_alloc(PortalPeer *peer, uint64_t length, PortalSpan *out);

// Frees a span of the peer's own that is not lent.
//
// # Safety
// `peer` is a live handle; `span` is readable.
PortalStatus portal_free(PortalPeer *peer, const PortalSpan *span);

// Lends a span of the peer's own to peer `to`, who may read it from now on and
// gives it back with `portal_give_back`.
//
// # Safety
// `peer` is a live handle; `span` is readable.
PortalStatus portal_grant(PortalPeer *peer, const PortalSpan *span, uint16_t to);

// Copies `size` bytes from `data` to byte `at` of a span of the peer's own.
//
// # Safety
// `peer` is a live handle; `span` and `size` bytes at `data` are readable.
PortalStatus portal_write(PortalPeer *peer,
                          const PortalSpan *span,
                          uint64_t at,
                          const uint8_t *data,
                          size_t size);

// Copies `size` bytes from byte `at` of a span, the peer's own or one lent to
// it, to `data`. The span is checked each time: owner alive, epoch, bounds,
// generation, grant.
//
// # Safety
// `peer` is a live handle; `span` is readable, `size` bytes at `data` writable.
PortalStatus portal_read(PortalPeer *peer,
                         const PortalSpan *span,
                         uint64_t at,
                         uint8_t *data,
                         size_t size);

// Gives a span that was lent to this peer back to its owner.
//
// # Safety
// `peer` is a live handle; `span` is readable.
PortalStatus portal_give_back(PortalPeer *peer, const PortalSpan *span);

// Takes back what peer `from` has given back, and frees it; `count` gets the
// number of spans (may be NULL).
//
// # Safety
// `peer` is a live handle; `count` is NULL or writable.
PortalStatus portal_take_returns(PortalPeer *peer, uint16_t from, uint64_t *count);

// Makes ring `id` from this peer to peer `to`, of `slots` messages (a power of
// two). A ring of the same id is replaced: its receiver accepts it again.
//
// # Safety
// `peer` is a live handle; `out` is writable.
PortalStatus portal_create_ring(PortalPeer *peer,
                                uint16_t to,
                                uint32_t id,
                                uint32_t slots,
                                PortalSender **out);

// Sends a message. `PORTAL_STATUS_FULL` when the receiver has not made room.
//
// # Safety
// `sender` is a live handle; `message` is readable.
PortalStatus portal_send(PortalSender *sender, const PortalMessage *message);

// Closes the sending end. Messages in the ring stay until it is replaced. NULL
// does nothing.
//
// # Safety
// `sender` came from `portal_create_ring` and is not used again.
void portal_close_sender(PortalSender *sender);

// Accepts ring `id` that peer `from` sends on. `PORTAL_STATUS_EMPTY` when it
// has not made it yet.
//
// # Safety
// `peer` is a live handle; `out` is writable.
PortalStatus portal_accept_ring(PortalPeer *peer, uint16_t from, uint32_t id, PortalReceiver **out);

// Takes the next message. `PORTAL_STATUS_EMPTY` when there is none.
//
// # Safety
// `receiver` is a live handle; `out` is writable.
PortalStatus portal_receive(PortalReceiver *receiver, PortalMessage *out);

// Closes the receiving end. NULL does nothing.
//
// # Safety
// `receiver` came from `portal_accept_ring` and is not used again.
void portal_close_receiver(PortalReceiver *receiver);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HV_SHMEM_H */
