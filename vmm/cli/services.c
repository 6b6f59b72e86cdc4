/*
 * Service names. c-ares refers to these functions, and nobody asks it for a service: with our own, which know none, the
 * static program has no use for glibc's, which would load shared libraries.
 */
#include <netdb.h>
#include <stddef.h>

struct servent *getservbyname(const char *name, const char *protocol)
{
	(void)name;
	(void)protocol;
	return NULL;
}

int getservbyport_r(int port, const char *protocol, struct servent *entry, char *buffer, size_t buffer_bytes,
		    struct servent **result)
{
	(void)port;
	(void)protocol;
	(void)entry;
	(void)buffer;
	(void)buffer_bytes;
	*result = NULL;
	return 0;
}
