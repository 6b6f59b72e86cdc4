/* The addresses that allowed names have inside the sandbox: each name one of each family, made up. */
#ifndef CAPLOCK_NET_NAMES_H
#define CAPLOCK_NET_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/net/addr.h"
#include "virtio/net/name.h"

enum {
	NAMES_MAX = 16384,
	NAMES_TTL_S = 30, /* so long the guest may use an address without asking again */
};

struct name_entry {
	char name[NAME_BYTES];
	struct name_entry *next; /* of the same hash */
	unsigned flows;          /* that go there: it keeps its address */
	uint64_t told_ms;        /* when the guest was last told its address, which it keeps for NAMES_TTL_S */
	uint32_t index;
};

/* Zero-initialise it to start; names_free() to end. */
struct names {
	struct name_entry **bucket, **entry; /* NAMES_MAX of each, once there is a name */
	uint32_t count;
	uint32_t oldest; /* where to look for one to replace, when there are NAMES_MAX */
};

struct name_entry *names_add(struct names *n, const char *name, uint64_t now_ms);
struct name_entry *names_find(const struct names *n, const struct ip_addr *addr);
struct ip_addr names_v4(const struct name_entry *e);
struct ip_addr names_v6(const struct name_entry *e);
bool names_has_range(const struct ip_addr *addr);
void names_free(struct names *n);

#endif
