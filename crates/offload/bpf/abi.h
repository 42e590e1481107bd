/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* What the program and user space share, byte by byte; src/abi.rs says the same in Rust, and a
 * test compares the two. Addresses and ports are in network byte order, everything else in the
 * host's. */
#ifndef TURNWAY_ABI_H
#define TURNWAY_ABI_H

#include <linux/types.h>

/* --- paths4, paths6: hash maps from what a datagram shows to one direction of a channel --- */

/* A datagram from a client has its channel number here; one from a peer has 0, which is no
 * channel's number. What one relayed transport address of ours sends to another has INSIDE, else 0:
 * no frame is ever seen as that, so that nobody on a wire can pretend to be us. */
struct key4 {
	__be16 from_port;
	__be16 to_port;
	__be16 channel;
	__u16 inside;
	__be32 from;
	__be32 to;
};

struct key6 {
	__be16 from_port;
	__be16 to_port;
	__be16 channel;
	__u16 inside;
	__be32 from[4];
	__be32 to[4];
};

#define INSIDE 0xffff

/* Never changes while it is in the map: what changes is in the account and in the hop.
 *
 * A hash map hands out the memory of a removed path again at once, under the eyes of whoever reads
 * it. So `check` covers the key and every other word of the path: what was torn, or is another
 * key's by now, does not match (see path_check()). */
struct path {
	__u64 check;
	/* Index into `hops`; HOP_LOCAL: the destination is one of our own addresses, so that only a
	 * second path can say where it goes. */
	__u16 hop;
	/* What leaves: 4 or 6. An IPv4 address is the first word of its four. */
	__u8 family;
	__u8 flags;
	/* Index into `accounts`, and the account's generation when the path was made. */
	__u32 account;
	/* What leaves goes to... */
	__be32 to[4];
	/* ...and comes from. */
	__be32 from[4];
	__be16 from_port;
	__be16 to_port;
	/* PATH_TO_CLIENT: the channel to put before the payload. */
	__be16 channel;
	__u16 zero;
	__u32 generation;
	__u32 zero2;
};

#define PATH_TO_CLIENT 1
#define HOP_LOCAL 0xffff

/* The check is the sum of the 64-bit words of the key and of those of the path behind `check`, each
 * multiplied with an odd number: the first of a kind, and one step more for each word, all modulo
 * 2^64. */
#define PATH_CHECK_KEY 0x9e3779b97f4a7c15ULL
#define PATH_CHECK_VALUE 0xc2b2ae3d27d4eb4fULL
#define PATH_CHECK_STEP 0x165667b19e3779faULL

/* --- accounts: a mapped array; one for each direction of a channel --- */

/* User space writes the first three and moves credit in and out of the pocket; the program adds to
 * the others. A path is alive while its generation is the account's and the deadline is ahead: one
 * store revokes. */
struct account {
	/* CLOCK_MONOTONIC; 0 is the past. Read before the generation, so that a deadline of the next
	 * owner comes with its generation. */
	__u64 deadline_ns;
	__u32 generation;
	__u32 flags;
	/* ACCOUNT_METERED: payload bytes that may yet pass. Never below 0. */
	__s64 pocket;
	/* Relayed: datagrams, payload bytes. */
	__u64 datagrams;
	__u64 bytes;
	/* Not covered by the pocket: dropped, if ACCOUNT_SHUT... */
	__u64 dropped;
	__u64 dropped_bytes;
	/* ...or passed up; payload bytes. */
	__u64 passed_bytes;
};

#define ACCOUNT_METERED 1
/* What the pocket does not cover is dropped here, not passed up. */
#define ACCOUNT_SHUT 2

/* --- hops: a mapped array of next hops --- */

struct hop {
	/* The state, HOP_FRESH or HOP_ASK or 0 (pass up), in the lowest two bits; above them a number
	 * that every write changes. 0 while the other fields are written: whoever finds the same stamp
	 * before and after reading them has read what belongs together. */
	__u32 stamp;
	/* Index into `devices`. */
	__u32 device;
	/* The interface that has this program, and the one that the route names: the same, or a VLAN
	 * device on top of it. */
	__u32 ifindex;
	__u32 route_ifindex;
	/* Longest IP packet. */
	__u16 mtu;
	/* 802.1Q identifier in host order, 0: untagged. */
	__u16 vlan;
	__u8 to[6];
	__u8 from[6];
};

/* The MAC addresses are right. */
#define HOP_FRESH 1
/* They may be outdated: the kernel's FIB knows. */
#define HOP_ASK 2
#define HOP_STATE 3

/* --- listeners: a hash map of the server addresses that answer Binding requests --- */

struct listener {
	/* IPv4: the first word. */
	__be32 address[4];
	__be16 port;
	/* 4 or 6. */
	__u16 family;
};

/* --- sources: an LRU hash map, for the rate of Binding answers per source --- */

/* An IPv4 address, or the first 64 bits of an IPv6 address. */
struct source {
	__be32 prefix[2];
	__u32 family;
};

/* CLOCK_MONOTONIC: when all that the source was granted will have been earned at its rate. */
struct allowance {
	__u64 earned_ns;
};

/* --- settings: an array of one --- */

struct settings {
	__u32 flags;
	__u32 zero;
	/* A source may have one Binding answer in this time; 0: as many as it likes. */
	__u64 binding_interval_ns;
	/* How far ahead of its rate it may be: the burst times the interval. */
	__u64 binding_ahead_ns;
};

#define SETTINGS_BINDING 1
/* Answers do not turn round where the request came in: they are redirected there. */
#define SETTINGS_REDIRECT 2

/* --- outcomes: a per-CPU array of counters; a relayed datagram counts in its account only --- */

enum outcome {
	/* Looks like ours, but is passed up: */
	PASS_UNKNOWN,     /* a channel or peer that has no path */
	PASS_EXPIRED,     /* deadline, or a generation that is no more */
	PASS_LIMIT,       /* the pocket is empty */
	PASS_LENGTH,      /* lengths that do not agree */
	PASS_FRAGMENT,    /* a fragment, IPv4 options or an IPv6 extension header */
	PASS_TTL,         /* would end here */
	PASS_CHECKSUM,    /* zero where there must be one, wrong, or not yet filled in */
	PASS_MTU,         /* would not fit */
	PASS_HOP,         /* no next hop is known */
	PASS_HEADROOM,    /* the driver leaves no room for longer headers */
	PASS_REQUEST,     /* a STUN message that user space answers */
	/* Answered or dropped here: */
	BINDING_ANSWERED,
	BINDING_LIMITED,
	DROP_LIMIT,
	OUTCOMES
};

/* --- probed: what the self-test found; an array of one --- */

struct probed {
	__u64 seen;
	__u64 failed;
};

#endif
