/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The maps. User space sets the sizes of paths and accounts when it loads the program. A path takes
 * memory while it is there only: most machines have few. */
#ifndef TURNWAY_MAPS_H
#define TURNWAY_MAPS_H

#include "abi.h"
#include "helpers.h"

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 1);
	TYPE(key, struct key4);
	TYPE(value, struct path);
} paths4 SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 1);
	TYPE(key, struct key6);
	TYPE(value, struct path);
} paths6 SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(map_flags, BPF_F_MMAPABLE);
	NUMBER(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct account);
} accounts SEC(".maps");

/* A next hop is a neighbour: as many as a large Ethernet segment has. */
struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(map_flags, BPF_F_MMAPABLE);
	NUMBER(max_entries, 16384);
	TYPE(key, __u32);
	TYPE(value, struct hop);
} hops SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_DEVMAP);
	NUMBER(max_entries, 256);
	TYPE(key, __u32);
	TYPE(value, struct bpf_devmap_val);
} devices SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, 1024);
	TYPE(key, struct listener);
	TYPE(value, __u32);
} listeners SEC(".maps");

/* The busiest sources of Binding requests; whom it forgets has a full allowance again. */
struct {
	NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	NUMBER(max_entries, 65536);
	TYPE(key, struct source);
	TYPE(value, struct allowance);
} sources SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct settings);
} settings SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	NUMBER(max_entries, OUTCOMES);
	TYPE(key, __u32);
	TYPE(value, __u64);
} outcomes SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct probed);
} probed SEC(".maps");

#endif
