/*
 * A C peer: joins a region file as peer 1, takes spans from peer 0 (a Rust
 * process), and sends a span of its own with each byte turned over.
 *
 * usage: exchange REGION-FILE EPOCH COUNT
 */
#include "hv_shmem.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { RUST = 0, ME = 1, TO_C = 1, TO_RUST = 2 };

static void must(PortalStatus status, const char *what)
{
    if (status == PORTAL_STATUS_OK)
        return;
    char why[256];
    portal_last_error(why, sizeof why);
    fprintf(stderr, "%s: status %d: %s\n", what, (int)status, why);
    exit(1);
}

/* Some ten seconds of asking again, then an error. */
static int again(PortalStatus status, unsigned *tries)
{
    if (status != PORTAL_STATUS_EMPTY && status != PORTAL_STATUS_FULL)
        return 0;
    struct timespec pause = {0, 100 * 1000};
    nanosleep(&pause, NULL);
    return ++*tries < 100000;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    uint32_t epoch = (uint32_t)strtoul(argv[2], NULL, 10);
    unsigned count = (unsigned)strtoul(argv[3], NULL, 10);

    PortalRegion *region = NULL;
    if (portal_attach("/no/such/file", &region) != PORTAL_STATUS_REGION)
        return 3;
    if (portal_attach(NULL, &region) != PORTAL_STATUS_ARGUMENT)
        return 3;
    must(portal_attach(argv[1], &region), "attach");
    PortalRegionInfo info;
    must(portal_info(region, &info), "info");
    if (info.max_peers != 2 || info.generation != 1)
        return 4;
    uint32_t current = 0;
    must(portal_peer_epoch(region, ME, &current), "epoch");
    if (current != epoch)
        return 5;

    PortalPeer *peer = NULL;
    if (portal_join(region, ME, epoch + 1, 8, 65536, &peer) != PORTAL_STATUS_REGION)
        return 6;
    must(portal_join(region, ME, epoch, 8, 65536, &peer), "join");
    portal_detach(region);

    PortalSender *sender = NULL;
    must(portal_create_ring(peer, RUST, TO_RUST, 8, &sender), "create ring");
    PortalReceiver *receiver = NULL;
    PortalStatus status;
    unsigned tries = 0;
    do
        status = portal_accept_ring(peer, RUST, TO_C, &receiver);
    while (again(status, &tries));
    must(status, "accept ring");

    static uint8_t bytes[65536];
    for (unsigned n = 0; n < count; n++) {
        PortalMessage message;
        tries = 0;
        do
            status = portal_receive(receiver, &message);
        while (again(status, &tries));
        must(status, "receive");
        size_t length = (size_t)message.span.length;
        if (message.user_data != n || length > sizeof bytes)
            return 7;
        must(portal_read(peer, &message.span, 0, bytes, length), "read");

        /* What does not resolve is refused, and nothing else happens. */
        PortalSpan forged = message.span;
        forged.generation += 2;
        if (portal_read(peer, &forged, 0, bytes, length) != PORTAL_STATUS_SPAN)
            return 8;
        if (portal_read(peer, &message.span, length, bytes, 1) != PORTAL_STATUS_SPAN)
            return 9;
        must(portal_give_back(peer, &message.span), "give back");

        for (size_t i = 0; i < length; i++)
            bytes[i] = (uint8_t)~bytes[i];
        PortalMessage answer = {.opcode = 2, .user_data = n, .arg = length};
        uint64_t taken = 0;
        tries = 0;
        do {
            must(portal_take_returns(peer, RUST, &taken), "take returns");
            status = portal_alloc(peer, length, &answer.span);
        } while (status == PORTAL_STATUS_ARENA && again(PORTAL_STATUS_FULL, &tries));
        must(status, "alloc");
        must(portal_write(peer, &answer.span, 0, bytes, length), "write");
        must(portal_grant(peer, &answer.span, RUST), "grant");
        tries = 0;
        do
            status = portal_send(sender, &answer);
        while (again(status, &tries));
        must(status, "send");
        must(portal_beat(peer), "beat");
    }
    portal_close_receiver(receiver);
    portal_close_sender(sender);
    /* The Rust side reads the last span before it lets us go. */
    getchar();
    portal_leave(peer);
    return 0;
}
