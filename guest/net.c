/* The network as a program finds it: the loopback interface, and docker's settings for programs that are not root. */
#include "guest/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/log.h"

static const char *const settings[][2] = {
    {"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
    {"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
};

/* Brings lo up; the kernel gives it 127.0.0.1 and ::1 itself. */
static void start_loopback(void)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r))
		log_error("cannot bring lo up: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* Brings the network up, as far as there is one. Needs /proc. */
void net_start(void)
{
	start_loopback();
	for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
		int fd = open(settings[i][0], O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, settings[i][1], strlen(settings[i][1])) < 0)
			log_error("cannot set %s: %s", settings[i][0], strerror(errno));
		if (fd >= 0)
			close(fd);
	}
}
