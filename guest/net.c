/*
 * The network as a program finds it: the loopback interface, the link to the host where the sandbox has one
 * (virtio/net/link.h), and docker's settings for programs that are not root.
 */
#include "guest/guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/log.h"
#include "virtio/net/link.h"

static const char *const settings[][2] = {
    {"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
    {"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
};

/* Ports that are published may be those of servers on 127.0.0.1 (virtio/net/tcp_publish.c). */
static const char route_localnet[] = "/proc/sys/net/ipv4/conf/eth0/route_localnet";

static const char link_name[] = "eth0";
static const uint8_t guest_v6[16] = LINK_GUEST_V6, host_v6[16] = LINK_HOST_V6;

/* One request of rtnetlink(7), built from its parts. */
struct request {
	struct nlmsghdr head;
	uint8_t body[128];
};

static void put(struct request *r, const void *data, size_t len_bytes)
{
	memcpy((uint8_t *)r + r->head.nlmsg_len, data, len_bytes);
	r->head.nlmsg_len += (uint32_t)NLMSG_ALIGN(len_bytes);
}

static struct request request(uint16_t type, uint16_t flags, const void *body, size_t len_bytes)
{
	struct request r = {.head = {.nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags}};
	put(&r, body, len_bytes);
	return r;
}

static void put_attribute(struct request *r, uint16_t type, const void *data, size_t len_bytes)
{
	struct rtattr a = {.rta_type = type, .rta_len = (uint16_t)RTA_LENGTH(len_bytes)};
	put(r, &a, sizeof a);
	put(r, data, len_bytes);
}

/* Sends a request and reads its acknowledgment. Returns 0 or -errno. */
static int ask(int fd, const struct request *r)
{
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
		uint8_t rest[256];
	} reply;
	if (send(fd, r, r->head.nlmsg_len, 0) < 0 || recv(fd, &reply, sizeof reply, 0) < (ssize_t)NLMSG_LENGTH(sizeof(int)))
		return errno ? -errno : -EPROTO;
	return reply.head.nlmsg_type == NLMSG_ERROR ? reply.error.error : -EPROTO;
}

static int add_address(int fd, unsigned index, uint8_t family, const void *address, size_t len_bytes, uint8_t prefix_bits)
{
	struct ifaddrmsg m = {.ifa_family = family, .ifa_prefixlen = prefix_bits, .ifa_flags = IFA_F_NODAD, .ifa_index = index};
	struct request r = request(RTM_NEWADDR, NLM_F_CREATE, &m, sizeof m);
	put_attribute(&r, IFA_LOCAL, address, len_bytes);
	put_attribute(&r, IFA_ADDRESS, address, len_bytes);
	return ask(fd, &r);
}

static int add_default_route(int fd, uint8_t family, const void *gateway, size_t len_bytes)
{
	struct rtmsg m = {.rtm_family = family, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT, .rtm_type = RTN_UNICAST};
	struct request r = request(RTM_NEWROUTE, NLM_F_CREATE, &m, sizeof m);
	put_attribute(&r, RTA_GATEWAY, gateway, len_bytes);
	return ask(fd, &r);
}

static int set_up(int fd, unsigned index)
{
	struct ifinfomsg m = {.ifi_index = (int)index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	struct request r = request(RTM_NEWLINK, 0, &m, sizeof m);
	return ask(fd, &r);
}

/* Whether the sandbox has a link to the host. */
bool net_has_link(void)
{
	return if_nametoindex(link_name) != 0;
}

/* Gives the link its addresses and makes it the way to everywhere. */
static void start_link(unsigned index)
{
	const uint32_t guest_v4 = htonl(LINK_GUEST_V4), host_v4 = htonl(LINK_HOST_V4);
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int rc = fd < 0 ? -errno : set_up(fd, index);
	rc = rc ? rc : add_address(fd, index, AF_INET, &guest_v4, sizeof guest_v4, LINK_V4_BITS);
	rc = rc ? rc : add_address(fd, index, AF_INET6, guest_v6, sizeof guest_v6, LINK_V6_BITS);
	rc = rc ? rc : add_default_route(fd, AF_INET, &host_v4, sizeof host_v4);
	rc = rc ? rc : add_default_route(fd, AF_INET6, host_v6, sizeof host_v6);
	if (rc)
		log_error("cannot bring %s up: %s", link_name, strerror(-rc));
	if (fd >= 0)
		close(fd);
}

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

static void set(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		log_error("cannot set %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* Brings the network up, as far as there is one. Needs /proc. */
void net_start(void)
{
	unsigned index = if_nametoindex(link_name);
	start_loopback();
	if (index) {
		start_link(index);
		set(route_localnet, "1");
	}
	for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
		set(settings[i][0], settings[i][1]);
}
