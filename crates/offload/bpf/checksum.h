/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The Internet checksum (RFC 1071): sums of 16-bit words with end-around carry. Words are added as
 * they lie in memory, 32 bits at a time, and folded once at the end. */
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

/* Of an address in its four words. Those of an IPv4 address behind the first are not looked at. */
INLINE __u64 sum_address(const __be32 *address, __u8 family)
{
	__u64 sum = address[0];

	if (family == 6)
		sum += (__u64)address[1] + address[2] + address[3];
	return sum;
}

/* An IPv4 header without options, its checksum included. */
INLINE __u16 sum_ipv4(const void *header)
{
	const __be32 *words = header;

	return fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
}

#endif
