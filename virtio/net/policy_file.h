/* Policies as JSON: what --policy reads, --learn writes, and presets are. caplock(1), POLICY FILES, has the format. */
#ifndef CAPLOCK_NET_POLICY_FILE_H
#define CAPLOCK_NET_POLICY_FILE_H

#include <stddef.h>

#include "vmm/util/json.h"

struct buf;
struct err;
struct policy;

int policy_file_parse(const char *text, size_t len_bytes, struct policy *p, struct err *e);
int policy_file_take(struct policy *p, struct json_value root, struct err *e);
int policy_file_add(struct policy *p, const char *path, struct err *e);
int policy_file_write(const struct policy *p, struct buf *out);

#endif
