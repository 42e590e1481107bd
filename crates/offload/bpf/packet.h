/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* What arrived: Ethernet, at most one 802.1Q tag, IPv4 without options or IPv6 without extension
 * headers, UDP, and lengths that agree exactly. Nothing is changed here. */
#ifndef TURNWAY_PACKET_H
#define TURNWAY_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include "abi.h"
#include "checksum.h"

#define ETHERNET 14
#define TAG 4
#define IPV4 20
#define IPV6 40
#define UDP 8
/* The channel number and length of ChannelData. */
#define CHANNEL_HEADER 4

/* Not for us, and nothing to count. */
#define STRANGER OUTCOMES
#define FINE (OUTCOMES + 1)

/* What a datagram shows, as the key of a path: without a channel, until one has been read. */
struct seen {
	union {
		struct key4 v4;
		struct key6 v6;
		__u64 words[sizeof(struct key6) / 8];
	};
	__u8 family;
};

struct datagram {
	struct seen seen;
	/* Of the UDP header and the payload. */
	__u16 udp_length;
	__be16 udp_check;
	/* The first bytes of the payload as they lie in memory, 0 if there are fewer. */
	__be32 first;
	/* Bytes in front of the payload, and behind the IP packet: padding of short frames. */
	__u16 front;
	long behind;
	/* Whether there is an 802.1Q tag. */
	bool tagged;
	__u8 ttl;
	/* DSCP and ECN: the IPv4 TOS or the IPv6 traffic class. */
	__u8 tos;
	/* IPv4: whether the header's checksum is wrong. */
	bool broken;
	/* IPv4: identification, and the word with the DF bit. */
	__be16 id;
	__be16 fragment;
};

/* Two neighbours of 32 bits, as one word. */
INLINE __u64 neighbours(__u32 first, __u32 second)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return first | (__u64)second << 32;
#else
	return second | (__u64)first << 32;
#endif
}

/* The first of two neighbours. */
INLINE __u32 first_of(__u64 word)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (__u32)word;
#else
	return (__u32)(word >> 32);
#endif
}

/* Both ports of what is seen, as they lie side by side. */
INLINE __u32 seen_ports(const struct seen *seen)
{
	return first_of(seen->words[0]);
}

/* What is seen is ChannelData with this number, in the first two of four bytes; 0: no longer. */
INLINE void set_channel(struct seen *seen, __be32 channel)
{
	seen->words[0] = neighbours(seen_ports(seen), channel);
}

/* Of both addresses. */
INLINE __u64 sum_addresses(const struct seen *seen)
{
	__u64 sum = sum_word(seen->words[1]);

	if (seen->family == 6)
		sum += sum_word(seen->words[2]) + sum_word(seen->words[3]) +
		       sum_word(seen->words[4]);
	return sum;
}

/* Both ports of a datagram, as they lie side by side. */
INLINE __u32 ports(const struct udphdr *udp)
{
	return *(const __u32 *)udp;
}

/* Bytes of headers, of a kind that the verifier can follow. */
INLINE __u32 ethernet_header(bool tagged)
{
	return tagged ? ETHERNET + TAG : ETHERNET;
}

INLINE __u32 ip_header(__u8 family)
{
	return family == 4 ? IPV4 : IPV6;
}

INLINE void parse_udp(struct datagram *in, const struct udphdr *udp, const void *end)
{
	const __be32 *payload = (const void *)(udp + 1);

	in->udp_length = NTOHS(udp->len);
	in->udp_check = udp->check;
	in->first = 0;
	if (in->udp_length >= UDP + 4 && (const void *)(payload + 1) <= end)
		in->first = *payload;
}

INLINE int parse_ipv4(struct datagram *in, const struct iphdr *ip, const void *end)
{
	const struct udphdr *udp = (const void *)(ip + 1);

	if ((const void *)(udp + 1) > end || ip->protocol != IPPROTO_UDP)
		return STRANGER;
	if (*(const __u8 *)ip != 0x45)
		return PASS_FRAGMENT;
	/* All but DF. */
	if (ip->frag_off & HTONS(0xbfff))
		return PASS_FRAGMENT;
	in->seen.family = 4;
	in->seen.words[0] = neighbours(ports(udp), 0);
	in->seen.words[1] = neighbours(ip->saddr, ip->daddr);
	in->ttl = ip->ttl;
	in->tos = ip->tos;
	in->id = ip->id;
	in->fragment = ip->frag_off;
	in->broken = sum_ipv4(ip) != 0xffff;
	parse_udp(in, udp, end);
	return NTOHS(ip->tot_len) == IPV4 + in->udp_length ? FINE : PASS_LENGTH;
}

INLINE bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS || next == IPPROTO_AH;
}

INLINE int parse_ipv6(struct datagram *in, const struct ipv6hdr *ip, const void *end)
{
	const struct udphdr *udp = (const void *)(ip + 1);
	const __u64 *addresses = (const void *)&ip->saddr;

	if ((const void *)(udp + 1) > end || (*(const __u8 *)ip & 0xf0) != 0x60)
		return STRANGER;
	if (ip->nexthdr != IPPROTO_UDP)
		return is_extension(ip->nexthdr) ? PASS_FRAGMENT : STRANGER;
	in->seen.family = 6;
	in->seen.words[0] = neighbours(ports(udp), 0);
	in->seen.words[1] = addresses[0];
	in->seen.words[2] = addresses[1];
	in->seen.words[3] = addresses[2];
	in->seen.words[4] = addresses[3];
	in->ttl = ip->hop_limit;
	in->tos = (__u8)(NTOHS(*(const __be16 *)ip) >> 4);
	in->broken = false;
	in->id = 0;
	in->fragment = 0;
	parse_udp(in, udp, end);
	return NTOHS(ip->payload_len) == in->udp_length ? FINE : PASS_LENGTH;
}

/* FINE, STRANGER, or why it is passed up. */
INLINE int parse(struct xdp_md *ctx, struct datagram *in)
{
	const void *data = (const void *)(long)ctx->data, *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *ethernet = data;
	const void *ip = data + ETHERNET;
	__be16 type;
	long length;
	int parsed;

	/* A datagram to one address never comes to a group's MAC address but by a trick. */
	if (ip + TAG > end || ethernet->h_dest[0] & 1)
		return STRANGER;
	type = ethernet->h_proto;
	in->tagged = type == HTONS(ETH_P_8021Q);
	if (in->tagged) {
		type = *(const __be16 *)(ip + 2);
		ip += TAG;
	}
	if (type == HTONS(ETH_P_IP))
		parsed = parse_ipv4(in, ip, end);
	else if (type == HTONS(ETH_P_IPV6))
		parsed = parse_ipv6(in, ip, end);
	else
		return STRANGER;
	if (parsed != FINE)
		return parsed;
	length = ip_header(in->seen.family) + in->udp_length;
	if (in->udp_length < UDP || ip + length > end)
		return PASS_LENGTH;
	in->front = ethernet_header(in->tagged) + ip_header(in->seen.family) + UDP;
	in->behind = end - ip - length;
	return FINE;
}

#endif
