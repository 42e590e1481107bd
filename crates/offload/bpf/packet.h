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

struct datagram {
	__be32 from[4];
	__be32 to[4];
	__be16 from_port;
	__be16 to_port;
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
	__u8 family;
	__u8 ttl;
	/* DSCP and ECN: the IPv4 TOS or the IPv6 traffic class. */
	__u8 tos;
	/* IPv4: whether the header's checksum is wrong. */
	bool broken;
	/* IPv4: identification, and the word with the DF bit. */
	__be16 id;
	__be16 fragment;
};

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

	in->from_port = udp->source;
	in->to_port = udp->dest;
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
	in->family = 4;
	in->from[0] = ip->saddr;
	in->to[0] = ip->daddr;
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

	if ((const void *)(udp + 1) > end || (*(const __u8 *)ip & 0xf0) != 0x60)
		return STRANGER;
	if (ip->nexthdr != IPPROTO_UDP)
		return is_extension(ip->nexthdr) ? PASS_FRAGMENT : STRANGER;
	in->family = 6;
	__builtin_memcpy(in->from, &ip->saddr, 16);
	__builtin_memcpy(in->to, &ip->daddr, 16);
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
	length = ip_header(in->family) + in->udp_length;
	if (in->udp_length < UDP || ip + length > end)
		return PASS_LENGTH;
	in->front = ethernet_header(in->tagged) + ip_header(in->family) + UDP;
	in->behind = end - ip - length;
	return FINE;
}

#endif
