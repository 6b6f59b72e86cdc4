/* What the processes may do that read what others made: archives, and the files of images. */
#ifndef CAPLOCK_IMAGE_CONFINE_H
#define CAPLOCK_IMAGE_CONFINE_H

int image_confine(void);

#endif
