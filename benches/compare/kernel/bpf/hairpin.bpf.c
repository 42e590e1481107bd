/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The bare hairpin, what a relay in the kernel costs at least: parse, one lookup in a table with the
 * keys, values and size of the relay's, four bytes less or more, addresses and checksums, XDP_TX.
 * No expiry, no counters, no limits, no next hop: back to where it came from. IPv4 only. */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include "../../../../crates/offload/bpf/abi.h"
#include "../../../../crates/offload/bpf/checksum.h"
#include "../../../../crates/offload/bpf/helpers.h"

#define CHANNEL_HEADER 4

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, 1);
	TYPE(key, struct key4);
	TYPE(value, struct path);
} paths4 SEC(".maps");

/* What is in front of a payload. */
struct headers {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

/* Writes the headers anew, `length` bytes of UDP. */
INLINE void rewrite(struct headers *out, const struct headers *in, const struct path *path,
		    __be16 length, __u32 removed, __u32 added)
{
	__u64 before = (__u64)in->ip.saddr + in->ip.daddr + in->udp.source + in->udp.dest +
		       2 * in->udp.len + removed;
	__u64 after = (__u64)path->from[0] + path->to[0] + path->from_port + path->to_port +
		      2 * length + added;
	__u16 check = ~fold((__u16)~in->udp.check + after + (__u16)~fold(before));

	__builtin_memcpy(out->ethernet.h_dest, in->ethernet.h_source, 6);
	__builtin_memcpy(out->ethernet.h_source, in->ethernet.h_dest, 6);
	out->ethernet.h_proto = in->ethernet.h_proto;
	out->ip = in->ip;
	out->ip.ttl = in->ip.ttl - 1;
	out->ip.tot_len = HTONS(NTOHS(length) + sizeof(out->ip));
	out->ip.saddr = path->from[0];
	out->ip.daddr = path->to[0];
	out->ip.check = 0;
	out->ip.check = ~sum_ipv4(&out->ip);
	out->udp.source = path->from_port;
	out->udp.dest = path->to_port;
	out->udp.len = length;
	out->udp.check = in->udp.check ? (check ? check : 0xffff) : 0;
}

SEC("xdp")
int hairpin(struct xdp_md *ctx)
{
	struct headers *at = (void *)(long)ctx->data, in;
	const __be32 *payload = (const void *)(at + 1);
	const struct path *path;
	struct key4 key = {};
	int removed;

	if ((const void *)(payload + 1) > (void *)(long)ctx->data_end ||
	    at->ethernet.h_proto != HTONS(ETH_P_IP) || *(const __u8 *)&at->ip != 0x45 ||
	    at->ip.protocol != IPPROTO_UDP || at->ip.frag_off & HTONS(0xbfff) || at->ip.ttl <= 1)
		return XDP_PASS;
	in = *at;
	key.from = in.ip.saddr;
	key.to = in.ip.daddr;
	key.from_port = in.udp.source;
	key.to_port = in.udp.dest;
	removed = (*(const __u8 *)payload & 0xf0) == 0x40 ? CHANNEL_HEADER : -CHANNEL_HEADER;
	if (removed > 0) {
		key.channel = *(const __be16 *)payload;
		if (NTOHS(in.udp.len) != sizeof(in.udp) + CHANNEL_HEADER + (NTOHL(*payload) & 0xffff))
			return XDP_PASS;
	}
	path = bpf_map_lookup_elem(&paths4, &key);
	if (!path)
		return XDP_PASS;
	if (removed > 0) {
		__be32 header = *payload;

		if (bpf_xdp_adjust_head(ctx, CHANNEL_HEADER))
			return XDP_PASS;
		at = (void *)(long)ctx->data;
		if ((void *)(at + 1) > (void *)(long)ctx->data_end)
			return XDP_ABORTED;
		rewrite(at, &in, path, HTONS(NTOHS(in.udp.len) - CHANNEL_HEADER), header, 0);
	} else {
		__be32 header = HTONL((__u32)NTOHS(path->channel) << 16 |
				      (NTOHS(in.udp.len) - sizeof(in.udp)));

		if (bpf_xdp_adjust_head(ctx, -CHANNEL_HEADER))
			return XDP_PASS;
		at = (void *)(long)ctx->data;
		payload = (const void *)(at + 1);
		if ((void *)(payload + 1) > (void *)(long)ctx->data_end)
			return XDP_ABORTED;
		rewrite(at, &in, path, HTONS(NTOHS(in.udp.len) + CHANNEL_HEADER), 0, header);
		*(__be32 *)payload = header;
	}
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
