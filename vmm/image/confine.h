/* The processes that read what others made: archives, and the files of images. */
#ifndef CAPLOCK_IMAGE_CONFINE_H
#define CAPLOCK_IMAGE_CONFINE_H

#include <stddef.h>

struct buf;

int image_confine(void);
int image_child(void (*work)(const void *context, int answer_fd), const void *context, size_t max_bytes, struct buf *answer);

#endif
