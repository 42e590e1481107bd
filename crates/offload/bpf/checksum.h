/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The Internet checksum (RFC 1071): sums of 16-bit words with end-around carry. Words are added as
 * they lie in memory, 32 bits at a time, and folded once at the end. They are added before they are
 * written where possible: to read at once what was written in pieces stalls the processor. */
#ifndef TURNWAY_CHECKSUM_H
#define TURNWAY_CHECKSUM_H

#include "helpers.h"

/* The 16-bit sum of what was added up; fewer than 16 words of 32 bits. */
INLINE __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* Of the two halves of a word of 64 bits. */
INLINE __u64 sum_word(__u64 word)
{
	return (__u32)word + (word >> 32);
}

/* An IPv4 header without options, its checksum included. */
INLINE __u16 sum_ipv4(const void *header)
{
	const __be32 *words = header;

	return fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
}

#endif
