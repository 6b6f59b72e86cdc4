/*
 * The protocol between the supervisor and the agent in the guest. Shared by both sides.
 *
 * Transport: one vsock stream per command. The first stream is opened by the guest to port PROTO_PORT of the host;
 * later ones are opened by the host to port PROTO_PORT of the guest. A stream carries frames, both ways:
 *
 *   offset 0  u8   type      enum proto_type
 *          1  u8   0
 *          2  u16  0
 *          4  u32  length    of the payload in bytes, at most PROTO_PAYLOAD_MAX
 *          8  ...  payload
 *
 * All integers are little-endian. A frame that breaks a rule (unknown type, non-zero padding, length too large, payload
 * of the wrong size, data beyond the window) ends the stream: the receiver closes it.
 *
 * The guest's first frame is HELLO. The host's are SETUP (on the first stream only) and EXEC, sent without waiting for
 * HELLO. Then the guest sends STARTED, or ERROR and closes; then the streams flow; then EXIT, after all of the
 * command's output, and the guest closes.
 *
 * Flow control is per stream (stdin, stdout, stderr), so that a reader that stalls one of them stalls nothing else:
 * a sender may have PROTO_WINDOW_BYTES of a stream outstanding, and WINDOW gives it back what the receiver consumed.
 *
 * SETUP and EXEC carry a list of fields: u16 tag (enum proto_field), u16 0, u32 length, value, not padded. Strings are
 * without NUL. Unknown tags are an error: both sides are built from one tree.
 */
#ifndef CAPLOCK_GUEST_PROTO_H
#define CAPLOCK_GUEST_PROTO_H

#include <stdint.h>

enum {
	PROTO_PORT = 5000,
	PROTO_VERSION = 1,
	PROTO_MAGIC = 0x4b4c5043, /* "CPLK" */
	PROTO_HEADER_BYTES = 8,
	PROTO_PAYLOAD_MAX = 1 << 20,
	PROTO_DATA_MAX = 64 << 10,      /* what a sender puts into one STDIN, STDOUT or STDERR frame */
	PROTO_WINDOW_BYTES = 256 << 10, /* per stream and direction */
	PROTO_FIELD_HEADER_BYTES = 8,
	PROTO_SESSIONS_MAX = 1024, /* commands at the same time; more are refused */
};

enum proto_type {
	/* host to guest */
	PROTO_SETUP = 1, /* fields: once, before the first EXEC */
	PROTO_EXEC,      /* fields: once per stream */
	PROTO_STDIN,     /* data */
	PROTO_STDIN_EOF, /* empty */
	PROTO_SIGNAL,    /* u32 signal number, for the command's process group */
	PROTO_SHUTDOWN,  /* empty; alone on a stream: stop every process, write back, then EXIT 0 and power off */
	PROTO_CLOSED,    /* u32 enum proto_stream: nobody reads this output any more; its writers get SIGPIPE */

	/* guest to host */
	PROTO_HELLO = 64, /* u32 PROTO_MAGIC, u32 PROTO_VERSION */
	PROTO_STARTED,    /* u32 pid */
	PROTO_STDOUT,     /* data */
	PROTO_STDERR,     /* data */
	PROTO_EXIT,       /* u32 enum proto_exit, u32 exit code or signal number */
	PROTO_ERROR,      /* u32 exit status for the user (126, 127, or 125), then text: one line */

	/* both ways */
	PROTO_WINDOW = 128, /* u32 enum proto_stream, u32 bytes consumed */
};

enum proto_stream { PROTO_STREAM_STDIN = 0, PROTO_STREAM_STDOUT = 1, PROTO_STREAM_STDERR = 2 };

enum proto_exit { PROTO_EXITED = 0, PROTO_SIGNALLED = 1 };

enum proto_field {
	PROTO_FIELD_HOSTNAME = 1, /* SETUP: string */
	PROTO_FIELD_CLOCK_NS,     /* SETUP: u64, nanoseconds since 1970 (CLOCK_REALTIME of the host) */
	PROTO_FIELD_CPU_MILLI,    /* SETUP: u32, thousandths of a CPU that all commands share; absent: no limit */
	PROTO_FIELD_CA,           /* SETUP: string, a certificate (PEM) that programs are to trust; absent: none */
	PROTO_FIELD_JAVA_HOME,    /* SETUP: string, where the image says that its Java is; absent: it does not */
	PROTO_FIELD_ARG = 32,     /* EXEC: string, one per argument, in order; at least one */
	PROTO_FIELD_ENV,          /* EXEC: string NAME=VALUE, one per variable; the last of a name wins */
	PROTO_FIELD_CWD,          /* EXEC: string; absent: "/" */
	PROTO_FIELD_USER,         /* EXEC: string: name, uid, name:group or uid:gid; absent: root */
};

#endif
