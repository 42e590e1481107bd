/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* What generator and sink share with user space; ../flood.rs says the same in Rust. */
#ifndef TURNWAY_FLOOD_H
#define TURNWAY_FLOOD_H

#include <linux/types.h>

/* Bytes of a frame in front of the longest stamp's end that is the same in each frame of a flow. */
#define HEADER 56
/* Ethernet, IPv4, UDP; then a ChannelData header, or the begin of a STUN message. */
#define AT_PAYLOAD 42
#define AT_CHANNEL_PAYLOAD 46
#define AT_TRANSACTION 50

/* How a frame of one flow looks. */
struct flow {
	/* Ethernet, IPv4, UDP without its checksum, framing; what a stamp covers is overwritten. */
	__u8 header[HEADER];
	/* What the UDP checksum covers, but for what differs from frame to frame: 16-bit words as they
	 * lie in memory, added up. */
	__u32 sum;
	__u32 zero;
};

/* A run's orders, and its counters. User space writes it before and reads it after a run, as an
 * array of numbers. */
struct run {
	/* The first word of each stamp: no other run's frames are counted. */
	__u64 mark;
	/* Flows take turns. */
	__u64 flows;
	/* Frames that are due at once, and nanoseconds until the next ones are. */
	__u64 burst;
	__u64 interval_ns;
	/* Where the stamp is in a frame: AT_PAYLOAD, AT_CHANNEL_PAYLOAD, AT_TRANSACTION; and where it is
	 * in what was relayed. */
	__u64 at_stamp;
	__u64 at_relayed;
	/* The sink shows one frame of so many to user space. */
	__u64 every;

	/* The generator's counters: frames, and when the first and the last burst was due. */
	__u64 sent;
	__u64 begun_ns;
	__u64 ended_ns;
	/* Spent waiting until a burst was due. */
	__u64 idle_ns;

	/* The sink's counters: relayed frames, and other ones. */
	__u64 relayed;
	__u64 others;
	/* Relayed frames to show, for which there was no room. */
	__u64 unseen;

	/* Their own affairs. */
	__u64 due_ns;
	__u64 left;
	__u64 flow;
	__u64 unshown;
};

/* In front of the filling of each payload; of a Binding request the first two are the transaction
 * ID. */
struct stamp {
	__u32 mark;
	/* Counts from 0 over all flows: flow number and this one tell each other. */
	__u32 sequence[2];
	/* A number that nothing else has but this mark and this sequence. */
	__u32 proof;
} __attribute__((packed, aligned(2)));

#define PROOF 0x9e3779b1u

/* One of `every` relayed frames. */
struct sample {
	__u32 length;
	__u8 frame[1532];
};

#endif
