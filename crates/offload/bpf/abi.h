/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* What the program and user space share, byte by byte; src/abi.rs says the same in Rust, and a
 * test compares the two. Addresses and ports are in network byte order, everything else in the
 * host's. */
#ifndef TURNWAY_ABI_H
#define TURNWAY_ABI_H

#include <linux/types.h>

/* --- paths4, paths6: hash maps from what a datagram shows to one direction of a channel --- */

/* A datagram from a client has its channel number here; one from a peer has 0, which is no
 * channel's number. */
struct key4 {
	__be32 from;
	__be32 to;
	__be16 from_port;
	__be16 to_port;
	__be16 channel;
	__u16 zero;
};

struct key6 {
	__be32 from[4];
	__be32 to[4];
	__be16 from_port;
	__be16 to_port;
	__be16 channel;
	__u16 zero;
};

/* Never changes while it is in the map: what changes is in the account and in the hop. */
struct path {
	/* Of the key, see check(): a path that was freed and filled anew under a reader does not
	 * match the reader's datagram. Written first, compared last. */
	__u32 check;
	/* Index into `hops`; HOP_LOCAL: the peer is a relayed transport address of ours. */
	__u16 hop;
	/* What leaves: 4 or 6. An IPv4 address is the first word of its four. */
	__u8 family;
	__u8 flags;
	/* What leaves goes to... */
	__be32 to[4];
	/* ...and comes from. */
	__be32 from[4];
	__be16 to_port;
	__be16 from_port;
	/* PATH_TO_CLIENT: the channel to put before the payload. */
	__be16 channel;
	__u16 zero;
	/* Index into `accounts`, and the account's generation when the path was made. */
	__u32 account;
	__u32 generation;
};

#define PATH_TO_CLIENT 1
#define HOP_LOCAL 0xffff

/* --- accounts: a mapped array; one for each direction of a channel --- */

/* User space writes the first three and adds to the pocket; the program adds to the others. A path
 * is alive while its generation is the account's and the deadline is ahead: one store revokes. */
struct account {
	/* CLOCK_MONOTONIC; 0 is the past. */
	__u64 deadline_ns;
	__u32 generation;
	__u32 flags;
	/* ACCOUNT_METERED: payload bytes that may yet pass. */
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
	/* 0: unknown, pass up; HOP_FRESH; HOP_ASK: the kernel's FIB knows. Written last. */
	__u32 state;
	/* Index into `devices`. */
	__u32 device;
	__u32 ifindex;
	/* Longest IP packet. */
	__u16 mtu;
	/* 802.1Q identifier in host order, 0: untagged. */
	__u16 vlan;
	__u8 to[6];
	__u8 from[6];
	__u32 zero;
};

#define HOP_FRESH 1
#define HOP_ASK 2

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

struct allowance {
	__u64 at_ns;
	/* Answers that may be sent, in thousandths. */
	__u64 milli;
};

/* --- settings: an array of one --- */

struct settings {
	__u32 flags;
	/* Binding answers per second and source, and how many at once; rate 0: unlimited. */
	__u32 binding_rate;
	__u32 binding_burst;
	__u32 zero;
};

#define SETTINGS_BINDING 1

/* --- outcomes: a per-CPU array of counters; a relayed datagram counts in its account only --- */

enum outcome {
	/* Looks like ours, but is passed up: */
	PASS_UNKNOWN,     /* a channel or peer that has no path */
	PASS_EXPIRED,     /* deadline, or a generation that is no more */
	PASS_LIMIT,       /* the pocket is empty */
	PASS_LENGTH,      /* lengths that do not agree */
	PASS_FRAGMENT,    /* a fragment, IPv4 options or an IPv6 extension header */
	PASS_TTL,         /* would end here */
	PASS_CHECKSUM,    /* zero where there must be one, or not yet filled in */
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

#endif
