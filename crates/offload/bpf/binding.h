/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* STUN Binding requests without attributes, answered where they arrive, as user space answers them:
 * XOR-MAPPED-ADDRESS and nothing else (RFC 8489 sections 6.3.1.1 and 14.2). */
#ifndef TURNWAY_BINDING_H
#define TURNWAY_BINDING_H

#include "maps.h"
#include "packet.h"

#define COOKIE HTONL(0x2112a442)
/* A STUN header: type, length, magic cookie, transaction. */
#define STUN_HEADER 20
/* The type and length of a Binding request without attributes. */
#define BARE_REQUEST HTONL(0x00010000)
#define SUCCESS HTONS(0x0101)
#define XOR_MAPPED_ADDRESS HTONS(0x0020)
/* An attribute's type and length, its family, the port. */
#define MAPPED_HEADER 8
#define ANSWER_TTL 64

struct message {
	__be32 head;
	__be32 cookie;
	__be32 transaction[3];
};

/* XOR-MAPPED-ADDRESS in 32-bit words. */
struct mapped {
	__be16 type;
	__be16 length;
	__be16 family;
	__be16 port;
	__be32 address[4];
};

/* Whether `in` is a STUN message; if so, its header. */
INLINE bool read_stun(struct xdp_md *ctx, const struct datagram *in, struct message *message)
{
	const struct message *payload = (const void *)(long)ctx->data + in->front;

	if (*(const __u8 *)&in->first & 0xc0 || in->udp_length < UDP + STUN_HEADER ||
	    (const void *)(payload + 1) > (const void *)(long)ctx->data_end)
		return false;
	*message = *payload;
	return message->cookie == COOKIE;
}

INLINE bool is_listener(const struct datagram *in)
{
	struct listener key = { .port = in->to_port, .family = in->family };

	key.address[0] = in->to[0];
	if (in->family == 6) {
		key.address[1] = in->to[1];
		key.address[2] = in->to[2];
		key.address[3] = in->to[3];
	}
	return bpf_map_lookup_elem(&listeners, &key) != NULL;
}

/* An address to which nothing is sent: nobody, oneself, a group. */
INLINE bool is_nobody(const struct datagram *in)
{
	const __u8 *from = (const __u8 *)in->from;

	if (in->from_port == 0)
		return true;
	if (in->family == 4)
		return from[0] == 0 || from[0] == 127 || from[0] >= 224;
	return from[0] == 0xff || !(in->from[0] | in->from[1] | in->from[2]);
}

INLINE __u64 sum_message(const struct message *message)
{
	return (__u64)message->head + message->cookie + message->transaction[0] +
	       message->transaction[1] + message->transaction[2];
}

INLINE __u64 sum_pseudo(const struct datagram *in, __u16 udp_length)
{
	return sum_address(in->from, in->family) + sum_address(in->to, in->family) +
	       in->from_port + in->to_port + HTONS(IPPROTO_UDP) + 2 * HTONS(udp_length);
}

/* Whether a request is whole: what user space receives has been checked by the kernel. */
INLINE bool is_intact(const struct datagram *in, const struct message *message)
{
	if (in->broken)
		return false;
	if (in->udp_check == 0)
		return in->family == 4;
	return fold(fold(sum_pseudo(in, in->udp_length)) + sum_message(message) + in->udp_check) ==
	       0xffff;
}

/* Whether the source may have one more answer. Every answer costs one interval of the time that
 * the source has earned; it may be `ahead` of it. */
INLINE bool may_answer(const struct settings *settings, const struct datagram *in)
{
	__u64 interval = settings->binding_interval_ns, now, earned, next;
	struct source source = { .family = in->family };
	struct allowance fresh, *allowance;

	if (interval == 0)
		return true;
	source.prefix[0] = in->from[0];
	source.prefix[1] = in->family == 6 ? in->from[1] : 0;
	now = bpf_ktime_get_coarse_ns();
	allowance = bpf_map_lookup_elem(&sources, &source);
	if (!allowance) {
		fresh.earned_ns = now + interval;
		bpf_map_update_elem(&sources, &source, &fresh, BPF_ANY);
		return true;
	}
	earned = READ_ONCE(allowance->earned_ns);
	next = (earned > now ? earned : now) + interval;
	if (next > now + settings->binding_ahead_ns)
		return false;
	/* Another core was faster: so fast asks only who asks too much. */
	return __sync_val_compare_and_swap(&allowance->earned_ns, earned, next) == earned;
}

INLINE void make_mapped(struct mapped *mapped, const struct datagram *in,
			const struct message *message)
{
	mapped->type = XOR_MAPPED_ADDRESS;
	mapped->length = in->family == 4 ? HTONS(8) : HTONS(20);
	mapped->family = in->family == 4 ? HTONS(1) : HTONS(2);
	mapped->port = in->from_port ^ HTONS(0x2112);
	mapped->address[0] = in->from[0] ^ COOKIE;
	if (in->family == 6) {
		mapped->address[1] = in->from[1] ^ message->transaction[0];
		mapped->address[2] = in->from[2] ^ message->transaction[1];
		mapped->address[3] = in->from[3] ^ message->transaction[2];
	}
}

INLINE __be16 answer_check(const struct datagram *in, const struct message *message,
			   const struct mapped *mapped, __u16 udp_length)
{
	__u64 sum = sum_pseudo(in, udp_length) + mapped->type + mapped->length + mapped->family +
		    mapped->port + sum_address(mapped->address, in->family);
	__u16 check = ~fold(fold(sum) + sum_message(message));

	return check ? check : 0xffff;
}

INLINE void answer_ipv4(struct iphdr *ip, const struct datagram *in, __u16 length)
{
	ip->tos = 0;
	ip->tot_len = HTONS(length);
	/* Too short to be fragmented, so it needs no identification. */
	ip->id = 0;
	ip->frag_off = HTONS(0x4000);
	ip->ttl = ANSWER_TTL;
	ip->check = 0;
	ip->saddr = in->to[0];
	ip->daddr = in->from[0];
	ip->check = ~sum_ipv4(ip);
}

INLINE void answer_ipv6(struct ipv6hdr *ip, const struct datagram *in, __u16 udp_length)
{
	*(__be32 *)ip = HTONL(0x60000000);
	ip->payload_len = HTONS(udp_length);
	ip->hop_limit = ANSWER_TTL;
	__builtin_memcpy(&ip->saddr, in->to, 16);
	__builtin_memcpy(&ip->daddr, in->from, 16);
}

INLINE void swap_macs(struct ethhdr *ethernet)
{
	__u8 mac[6];

	__builtin_memcpy(mac, ethernet->h_dest, 6);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, 6);
	__builtin_memcpy(ethernet->h_source, mac, 6);
}

/* Turns the request into its answer; false if there is no room, and then nothing has changed. */
INLINE bool answer(struct xdp_md *ctx, const struct datagram *in, struct message *message)
{
	__u32 mapped_length = MAPPED_HEADER + (in->family == 4 ? 4 : 16);
	__u16 udp_length = UDP + STUN_HEADER + mapped_length;
	struct mapped mapped;
	struct udphdr *udp;
	void *data, *end;

	if (bpf_xdp_adjust_tail(ctx, (int)mapped_length - (int)in->behind))
		return false;
	message->head = (__be32)SUCCESS | HTONL(mapped_length);
	make_mapped(&mapped, in, message);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	/* The two conditions of this kind never hold; the verifier wants to see them. */
	if (data + in->front > end || in->front < ETHERNET + IPV4 + UDP)
		return false;
	swap_macs(data);
	udp = data + in->front - UDP;
	if ((void *)(udp + 1) + STUN_HEADER + mapped_length > end)
		return false;
	if (in->family == 4)
		answer_ipv4((void *)udp - IPV4, in, IPV4 + udp_length);
	else
		answer_ipv6((void *)udp - IPV6, in, udp_length);
	udp->source = in->to_port;
	udp->dest = in->from_port;
	udp->len = HTONS(udp_length);
	udp->check = answer_check(in, message, &mapped, udp_length);
	__builtin_memcpy(udp + 1, message, STUN_HEADER);
	if (in->family == 4)
		__builtin_memcpy((void *)(udp + 1) + STUN_HEADER, &mapped, MAPPED_HEADER + 4);
	else
		__builtin_memcpy((void *)(udp + 1) + STUN_HEADER, &mapped, MAPPED_HEADER + 16);
	return true;
}

/* STRANGER: no STUN message to a listener, so what else may it be? */
INLINE int binding(struct xdp_md *ctx, const struct datagram *in)
{
	const struct settings *setting;
	struct message message;
	__u32 zero = 0;

	if (!read_stun(ctx, in, &message) || !is_listener(in))
		return STRANGER;
	setting = bpf_map_lookup_elem(&settings, &zero);
	if (message.head != BARE_REQUEST || in->udp_length != UDP + STUN_HEADER || is_nobody(in) ||
	    !setting || !(setting->flags & SETTINGS_BINDING))
		return PASS_REQUEST;
	if (!is_intact(in, &message))
		return PASS_CHECKSUM;
	if (!may_answer(setting, in))
		return BINDING_LIMITED;
	return answer(ctx, in, &message) ? BINDING_ANSWERED : PASS_HEADROOM;
}

#endif
