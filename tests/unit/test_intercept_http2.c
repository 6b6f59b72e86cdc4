/* virtio/net/gate: client_http2.c, upstream_http2.c, http2.c, between a guest and a server of ours. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/gate_bench.h"
#include "tests/unit/http2_peer.h"
#include "virtio/net/gate/http.h"

#define ASK(method, path) ":method=" method "|:scheme=https|:authority=owner.test|:path=" path
#define COUNT(a) (sizeof(a) / sizeof (a)[0])

static struct http2_peer guest, server;
static struct session session; /* the server's */

static void set_up_http2(void)
{
	set_up();
	config.record_all = false; /* nobody would read them */
	client_http2 = server_http2 = true;
}

static void tear_down_http2(void)
{
	tear_down();
	client_http2 = server_http2 = false;
}

TestSuite(intercept_http2, .init = set_up_http2, .fini = tear_down_http2, .timeout = 120);

static void open_guest(void)
{
	start();
	connect_to("owner.test");
	http2_peer_start(&guest, client, client_fd, false);
}

static void accept_connection(struct session *s, struct http2_peer *p)
{
	*s = serve_connection();
	cr_assert_eq(SSL_accept(s->ssl), 1);
	http2_peer_start(p, s->ssl, s->fd, true);
}

static void accept_server(void)
{
	accept_connection(&session, &server);
}

static void open_both(void)
{
	open_guest();
	accept_server();
}

static void close_server(void)
{
	http2_peer_end(&server);
	session_end(&session);
}

static void close_both(void)
{
	close_server();
	http2_peer_end(&guest);
}

static void expect_server(const char *text)
{
	expect_in(http2_peer_log(&server), text);
}

static void expect_guest(const char *text)
{
	expect_in(http2_peer_log(&guest), text);
}

/* The server answers a stream with "ok". */
static void answer(int32_t id)
{
	http2_peer_respond(&server, id, ":status=200", true);
	http2_peer_data(&server, id, "ok", 2);
	http2_peer_finish(&server, id, NULL);
}

/* A request, and its answer, on new streams: they may have different numbers. */
static void exchange(void)
{
	static unsigned turn;
	char path[64], text[64];
	snprintf(path, sizeof path, ASK("GET", "/turn%u"), ++turn);
	int32_t id = http2_peer_ask(&guest, path, false);
	snprintf(text, sizeof text, ":path=/turn%u\n", turn);
	http2_peer_until(&server, text);
	const char *line = strstr(http2_peer_log(&server), text);
	while (line[-1] != '\n')
		line--;
	answer(atoi(line));
	snprintf(text, sizeof text, "\n%d end", id);
	http2_peer_until(&guest, text);
}

/* ---- Messages ---- */

Test(intercept_http2, a_request_and_its_response_pass)
{
	config.record_all = true;
	open_both();
	http2_peer_ask(&guest, ASK("POST", "/path?q=1") "|x-field=value|content-length=5", true);
	http2_peer_data(&guest, 1, "hello", 5);
	http2_peer_finish(&guest, 1, NULL);
	http2_peer_until(&server, "1 end");
	expect_server("1 head :method=POST :scheme=https :authority=owner.test :path=/path?q=1 x-field=value content-length=5\n");
	expect_server("1 data hello\n");
	http2_peer_respond(&server, 1, ":status=200|x-answer=yes|content-length=2", true);
	http2_peer_data(&server, 1, "ok", 2);
	http2_peer_finish(&server, 1, NULL);
	http2_peer_until(&guest, "1 end");
	expect_guest("1 head :status=200 x-answer=yes content-length=2\n1 data ok\n1 end");
	struct gate_record r = take_record();
	cr_expect_str_eq(r.method, "POST");
	cr_expect_eq(r.status, 200);
	cr_expect_eq(r.http2, 1);
	cr_expect_eq(r.request_bytes, 5);
	cr_expect_eq(r.response_bytes, 2);
	exchange(); /* on the connections that there are */
	close_both();
}

Test(intercept_http2, grpc_streams_both_ways)
{
	char text[32];
	open_both();
	http2_peer_ask(&guest, ASK("POST", "/pkg.Service/Method") "|te=trailers|content-type=application/grpc", true);
	http2_peer_until(&server, "1 head");
	expect_server("te=trailers");
	http2_peer_respond(&server, 1, ":status=200|content-type=application/grpc", true);
	for (unsigned i = 0; i < 5; i++) {
		snprintf(text, sizeof text, "ping%u", i);
		http2_peer_data(&guest, 1, text, 5);
		http2_peer_until(&server, text);
		snprintf(text, sizeof text, "pong%u", i);
		http2_peer_data(&server, 1, text, 5);
		http2_peer_until(&guest, text);
	}
	http2_peer_finish(&guest, 1, NULL);
	http2_peer_until(&server, "1 end");
	http2_peer_data(&server, 1, "last", 4);
	http2_peer_finish(&server, 1, "grpc-status=0|grpc-message=fine");
	http2_peer_until(&guest, "1 end");
	expect_guest("1 data last\n1 head grpc-status=0 grpc-message=fine\n1 end");
	expect_not_in(http2_peer_log(&guest), "reset");
	close_both();
}

Test(intercept_http2, a_response_may_be_a_head_alone)
{
	open_both();
	http2_peer_ask(&guest, ASK("POST", "/pkg.Service/Method") "|te=trailers", true);
	http2_peer_finish(&guest, 1, NULL);
	http2_peer_until(&server, "1 end");
	http2_peer_respond(&server, 1, ":status=200|grpc-status=5", false);
	http2_peer_until(&guest, "1 end");
	expect_guest("1 head :status=200 grpc-status=5\n1 end");
	http2_peer_ask(&guest, ASK("HEAD", "/"), false);
	http2_peer_until(&server, "3 end");
	http2_peer_respond(&server, 3, ":status=200|content-length=1000", false);
	http2_peer_until(&guest, "3 end");
	expect_guest("3 head :status=200 content-length=1000\n3 end");
	close_both();
}

Test(intercept_http2, trailers_of_a_request_pass)
{
	open_both();
	http2_peer_ask(&guest, ASK("POST", "/"), true);
	http2_peer_data(&guest, 1, "body", 4);
	http2_peer_finish(&guest, 1, "x-sum=1|authorization=no");
	http2_peer_until(&server, "1 end");
	expect_server("1 data body\n1 head x-sum=1\n1 end");
	answer(1);
	http2_peer_until(&guest, "1 end");
	close_both();
}

Test(intercept_http2, interim_responses_pass)
{
	open_both();
	http2_peer_ask(&guest, ASK("POST", "/") "|expect=100-continue", true);
	http2_peer_until(&server, "expect=100-continue");
	http2_peer_respond(&server, 1, ":status=100", false);
	http2_peer_respond(&server, 1, ":status=103|link=</a>", false);
	http2_peer_until(&guest, "1 head :status=103 link=</a>");
	expect_guest("1 head :status=100\n");
	http2_peer_finish(&guest, 1, NULL);
	http2_peer_until(&server, "1 end");
	answer(1);
	http2_peer_until(&guest, "1 head :status=200\n1 data ok\n1 end");
	close_both();
}

Test(intercept_http2, a_hundred_streams_at_once)
{
	enum { STREAMS = 100 };
	char text[32];
	open_both();
	exchange(); /* the guest knows our limit then */
	for (unsigned i = 0; i < STREAMS; i++) {
		int32_t id = http2_peer_ask(&guest, ASK("GET", "/"), false);
		snprintf(text, sizeof text, "%d end", id);
	}
	http2_peer_until(&server, text);
	for (int32_t id = 1 + 2 * STREAMS; id > 1; id -= 2)
		answer(id);
	for (int32_t id = 3; id <= 1 + 2 * STREAMS; id += 2) {
		snprintf(text, sizeof text, "%d end", id);
		http2_peer_until(&guest, text);
	}
	expect_not_in(http2_peer_log(&guest), "reset");
	close_both();
}

/* ---- Secrets and names ---- */

Test(intercept_http2, a_secret_is_put_in_and_taken_out)
{
	config.record_all = true;
	open_both();
	http2_peer_ask(&guest, ASK("GET", "/") "|authorization=Bearer " PLACEHOLDER, false);
	http2_peer_until(&server, "1 end");
	expect_server("authorization=Bearer " VALUE);
	http2_peer_respond(&server, 1, ":status=200|x-echo=" VALUE, true);
	http2_peer_data(&server, 1, "<" VALUE ">", sizeof VALUE + 1);
	http2_peer_finish(&server, 1, "x-last=" VALUE);
	http2_peer_until(&guest, "1 end");
	expect_not_in(http2_peer_log(&guest), VALUE);
	expect_guest("x-echo=" PLACEHOLDER);
	cr_expect_str_eq(take_record().secrets, "KEY");
	close_both();
}

Test(intercept_http2, case_22_every_stream_names_the_flows_host)
{
	open_both();
	http2_peer_ask(&guest, ASK("GET", "/good"), false);
	http2_peer_ask(&guest, ":method=GET|:scheme=https|:authority=other.test|:path=/bad", false);
	http2_peer_ask(&guest, ASK("GET", "/bad") "|host=other.test", false);
	http2_peer_ask(&guest, ":method=GET|:scheme=https|:path=/bad|host=other.test", false);
	http2_peer_ask(&guest, ":method=GET|:scheme=https|:path=/also-good|host=owner.test", false);
	http2_peer_until(&guest, "3 end");
	http2_peer_until(&guest, "5 end");
	http2_peer_until(&guest, "7 end");
	expect_guest("3 head :status=421 ");
	expect_guest("5 head :status=400 ");
	expect_guest("7 head :status=421 ");
	http2_peer_until(&server, "3 end");
	answer(1);
	answer(3);
	http2_peer_until(&guest, "1 end");
	http2_peer_until(&guest, "9 end");
	expect_server(":authority=owner.test :path=/also-good");
	expect_not_in(http2_peer_log(&server), "/bad");
	close_both();
}

Test(intercept_http2, case_30_what_is_no_request_is_refused)
{
	static const struct {
		const char *head, *result; /* after the stream's number */
		bool body;
	} bad[] = {
		{ASK("GET", "/") "|connection=close", "reset 1", false},
		{ASK("POST", "/") "|transfer-encoding=chunked", "reset 1", true},
		{ASK("GET", "/") "|upgrade=websocket", "reset 1", false},
		{ASK("GET", "/") "|te=gzip", "reset 1", false},
		{ASK("GET", "/") "|x=a\r\nb: c", "reset ", false},
		{ASK("GET", "/") "|x=a\x01", "reset ", false},
		{ASK("GET", "/ HTTP/1.1\r\nx: y"), "reset 1", false},
		{ASK("GET", "/#f"), "head :status=400", false},
		{ASK("POST", "/") "|content-length=5", "reset 1", false},
		{ASK("POST", "/") "|content-length=5|content-length=5", "reset 1", true},
		{ASK("GET", "*"), "reset 1", false},
		{ASK("TRACE", "/"), "head :status=405", false},
		{ASK("Head", "/"), "head :status=400", false},
		{ASK("POST", "/") "|expect=more", "head :status=417", true},
		{":method=GET|:scheme=http|:authority=owner.test|:path=/", "head :status=400", false},
		{":method=GET|:scheme=https|:authority=a@owner.test|:path=/", "", false},
		{":method=CONNECT|:authority=owner.test", "head :status=405", false},
		{":method=GET|:scheme=https|:authority=owner.test|:path=/|:protocol=websocket", "reset ", false},
	};
	open_both();
	for (size_t i = 0; i < COUNT(bad); i++) {
		char text[64];
		int32_t id = http2_peer_ask(&guest, bad[i].head, bad[i].body);
		snprintf(text, sizeof text, "\n%d %s", id, bad[i].result);
		http2_peer_until(&guest, text);
	}
	exchange(); /* nothing of it has harmed others */
	expect_not_in(http2_peer_log(&server), "\n3 ");
	close_both();
}

Test(intercept_http2, a_head_that_is_too_large_is_refused)
{
	struct buf head = {0};
	open_both();
	buf_addf(&head, ASK("GET", "/"));
	for (unsigned i = 0; i <= HTTP_FIELDS_MAX; i++)
		buf_addf(&head, "|x=%u", i);
	http2_peer_ask(&guest, (char *)head.data, false);
	http2_peer_until(&guest, "1 head :status=431");
	exchange();
	buf_free(&head);
	close_both();
}

Test(intercept_http2, pieces_of_cookies_are_put_together)
{
	open_both();
	http2_peer_ask(&guest, ASK("GET", "/") "|cookie=a=1|cookie=b=2|x=y|cookie=c=3", false);
	http2_peer_until(&server, "1 end");
	expect_server(" x=y cookie=a=1; b=2; c=3\n");
	close_both();
}

/* ---- Servers of HTTP/1.1 ---- */

Test(intercept_http2, a_server_may_speak_http1)
{
	server_http2 = false;
	open_guest();
	session = serve_connection();
	cr_assert_eq(SSL_accept(session.ssl), 1);
	http2_peer_ask(&guest, ASK("POST", "/path") "|x-field=value|te=trailers", true);
	http2_peer_data(&guest, 1, "hello", 5);
	http2_peer_finish(&guest, 1, NULL);
	http2_peer_run(false);
	const char *request = session_read_until(&session, "0\r\n\r\n");
	expect_in(request, "POST /path HTTP/1.1\r\nHost: owner.test\r\nx-field: value\r\nTransfer-Encoding: chunked\r\n");
	expect_in(request, "\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
	static const char response[] = "HTTP/1.1 200 OK\r\nX-Answer: Yes\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n";
	session_write(&session, response, sizeof response - 1);
	http2_peer_until(&guest, "1 end");
	expect_guest("1 head :status=200 x-answer=Yes\n1 data ok\n1 head x-sum=1\n1 end");
	http2_peer_end(&guest);
	session_end(&session);
}

/* ---- Bodies of any size, in little memory ---- */

enum {
	LARGE_BYTES = 4 << 20,
	HELD_MAX_BYTES = 1 << 20, /* between one that sends and one that takes nothing */
};

static const char stuck_body[HELD_MAX_BYTES]; /* of which not all is sent */

static const char *large_body(uint32_t *sum)
{
	static char body[LARGE_BYTES];
	*sum = 0;
	for (size_t i = 0; i < LARGE_BYTES; i++) {
		body[i] = (char)(i * 2654435761u >> 24);
		*sum = *sum * 31 + (uint8_t)body[i];
	}
	return body;
}

/* Until `from` may send nothing more on a stream, and the gate has all of it. */
static void fill_window(struct http2_peer *from, int32_t id)
{
	http2_peer_run(false);
	do {
		while (nghttp2_session_get_stream_remote_window_size(from->session, id) > 0 &&
		       nghttp2_session_get_remote_window_size(from->session) > 0)
			http2_peer_run(true);
		http2_peer_settle(from);
	} while (nghttp2_session_get_stream_remote_window_size(from->session, id) > 0);
}

/* `to` takes nothing until `from` may send nothing more; then all of it comes. */
static void pass_large_body(struct http2_peer *from, struct http2_peer *to)
{
	uint32_t sum;
	const char *body = large_body(&sum);
	to->hold = to->quiet = true;
	http2_peer_data(from, 1, body, LARGE_BYTES);
	http2_peer_finish(from, 1, NULL);
	fill_window(from, 1);
	cr_expect_lt(from->sent_bytes, HELD_MAX_BYTES);
	to->hold = false;
	http2_peer_take(to, 1, to->received_bytes);
	http2_peer_until(to, "1 end");
	cr_expect_eq(to->received_bytes, LARGE_BYTES);
	cr_expect_eq(to->sum, sum);
}

Test(intercept_http2, a_guest_that_does_not_read_holds_the_server_back)
{
	open_both();
	http2_peer_ask(&guest, ASK("GET", "/"), false);
	http2_peer_until(&server, "1 end");
	http2_peer_respond(&server, 1, ":status=200", true);
	pass_large_body(&server, &guest);
	close_both();
}

Test(intercept_http2, a_server_that_does_not_read_holds_the_guest_back)
{
	open_both();
	http2_peer_ask(&guest, ASK("POST", "/"), true);
	http2_peer_until(&server, "1 head");
	pass_large_body(&guest, &server);
	answer(1);
	http2_peer_until(&guest, "1 end");
	close_both();
}

/* The guest reads nothing of a stream. */
static void get_stuck(int32_t id)
{
	char text[32];
	snprintf(text, sizeof text, "\n%d end", id);
	http2_peer_ask(&guest, ASK("GET", "/stuck"), false);
	http2_peer_until(&server, text);
	http2_peer_respond(&server, id, ":status=200", true);
	http2_peer_data(&server, id, stuck_body, sizeof stuck_body);
	fill_window(&server, id);
}

Test(intercept_http2, streams_do_not_stop_others)
{
	open_both();
	guest.hold = guest.quiet = true;
	nghttp2_session_set_local_window_size(guest.session, NGHTTP2_FLAG_NONE, 0, 16 << 20);
	get_stuck(1);
	exchange();
	close_both();
}

/* More than fits into the window of a connection, all together. */
Test(intercept_http2, what_was_not_read_of_a_response_does_not_stop_others)
{
	open_both();
	guest.hold = guest.quiet = true;
	nghttp2_session_set_local_window_size(guest.session, NGHTTP2_FLAG_NONE, 0, 16 << 20);
	for (int32_t id = 1; id < 2 * 40; id += 2) {
		char text[32];
		get_stuck(id);
		nghttp2_submit_rst_stream(guest.session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
		snprintf(text, sizeof text, "%d reset 8", id);
		http2_peer_until(&server, text);
		cr_assert_gt(nghttp2_session_get_remote_window_size(server.session), 0);
	}
	exchange();
	close_both();
}

Test(intercept_http2, what_was_not_read_of_a_request_does_not_stop_others)
{
	open_both();
	server.hold = server.quiet = true;
	nghttp2_session_set_local_window_size(server.session, NGHTTP2_FLAG_NONE, 0, 16 << 20);
	for (int32_t id = 1; id < 2 * 40; id += 2) {
		char text[32];
		http2_peer_ask(&guest, ASK("POST", "/stuck"), true);
		http2_peer_data(&guest, id, stuck_body, sizeof stuck_body);
		snprintf(text, sizeof text, "\n%d head", id);
		http2_peer_until(&server, text);
		fill_window(&guest, id);
		nghttp2_submit_rst_stream(guest.session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
		snprintf(text, sizeof text, "\n%d reset 8", id);
		http2_peer_until(&server, text);
		cr_assert_gt(nghttp2_session_get_remote_window_size(guest.session), 0);
	}
	exchange();
	close_both();
}

/* ---- Ends ---- */

Test(intercept_http2, a_reset_passes_both_ways)
{
	open_both();
	http2_peer_ask(&guest, ASK("POST", "/"), true);
	http2_peer_until(&server, "1 head");
	nghttp2_submit_rst_stream(guest.session, NGHTTP2_FLAG_NONE, 1, NGHTTP2_CANCEL);
	http2_peer_until(&server, "1 reset 8");
	http2_peer_ask(&guest, ASK("GET", "/"), false);
	http2_peer_until(&server, "3 end");
	http2_peer_respond(&server, 3, ":status=200", true);
	http2_peer_data(&server, 3, "part", 4);
	http2_peer_until(&guest, "3 data part");
	nghttp2_submit_rst_stream(server.session, NGHTTP2_FLAG_NONE, 3, NGHTTP2_INTERNAL_ERROR);
	http2_peer_until(&guest, "3 reset 2");
	exchange();
	close_both();
}

Test(intercept_http2, a_response_may_come_before_the_request_is_complete)
{
	open_both();
	http2_peer_ask(&guest, ASK("POST", "/"), true);
	http2_peer_data(&guest, 1, "part", 4);
	http2_peer_until(&server, "1 data part");
	http2_peer_respond(&server, 1, ":status=413", false);
	http2_peer_until(&guest, "1 reset 0");
	expect_guest("1 head :status=413\n1 end");
	http2_peer_until(&server, "1 reset 0");
	exchange();
	close_both();
}

Test(intercept_http2, a_refused_request_is_repeated)
{
	open_both();
	exchange();
	http2_peer_ask(&guest, ASK("GET", "/again"), false);
	http2_peer_until(&server, "3 end");
	nghttp2_submit_rst_stream(server.session, NGHTTP2_FLAG_NONE, 3, NGHTTP2_REFUSED_STREAM);
	http2_peer_until(&server, "5 end");
	answer(5);
	http2_peer_until(&guest, "3 end");
	expect_guest("3 head :status=200");
	http2_peer_ask(&guest, ASK("POST", "/once"), true);
	http2_peer_data(&guest, 5, "body", 4);
	http2_peer_until(&server, "7 data body");
	nghttp2_submit_rst_stream(server.session, NGHTTP2_FLAG_NONE, 7, NGHTTP2_REFUSED_STREAM);
	http2_peer_until(&guest, "5 head :status=502");
	close_both();
}

Test(intercept_http2, a_server_that_goes_away_is_dialled_again)
{
	open_both();
	exchange();
	nghttp2_submit_goaway(server.session, NGHTTP2_FLAG_NONE, 1, NGHTTP2_NO_ERROR, NULL, 0);
	http2_peer_run(false);
	http2_peer_until(&server, "gone"); /* it has nothing more to do there */
	close_server();
	http2_peer_ask(&guest, ASK("GET", "/next"), false);
	http2_peer_run(false);
	accept_server();
	http2_peer_until(&server, "1 end");
	expect_server("/next");
	answer(1);
	http2_peer_until(&guest, "3 end");
	close_both();
}

Test(intercept_http2, requests_wait_for_a_server_that_takes_one_at_a_time)
{
	nghttp2_settings_entry one = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1};
	open_both();
	nghttp2_submit_settings(server.session, NGHTTP2_FLAG_NONE, &one, 1);
	http2_peer_settle(&server);
	http2_peer_ask(&guest, ASK("GET", "/1"), false);
	http2_peer_ask(&guest, ASK("GET", "/2"), false);
	http2_peer_until(&server, "1 end");
	http2_peer_settle(&guest);
	answer(1); /* the other connection, which the gate makes, is not answered */
	http2_peer_until(&server, "3 end");
	answer(3);
	http2_peer_until(&guest, "3 end");
	close_both();
}

Test(intercept_http2, a_server_that_goes_away_finishes_what_it_has)
{
	open_both();
	http2_peer_ask(&guest, ASK("GET", "/first"), false);
	http2_peer_until(&server, "1 end");
	nghttp2_submit_goaway(server.session, NGHTTP2_FLAG_NONE, 1, NGHTTP2_NO_ERROR, NULL, 0);
	http2_peer_respond(&server, 1, ":status=200", true);
	http2_peer_data(&server, 1, "part", 4);
	http2_peer_until(&guest, "1 data part"); /* the gate knows, then */
	static struct http2_peer second;
	struct session second_session;
	http2_peer_ask(&guest, ASK("GET", "/second"), false);
	http2_peer_run(false);
	accept_connection(&second_session, &second);
	http2_peer_until(&second, "/second\n1 end");
	http2_peer_respond(&second, 1, ":status=200", false);
	http2_peer_until(&guest, "3 end");
	http2_peer_finish(&server, 1, NULL);
	http2_peer_until(&guest, "\n1 end");
	http2_peer_end(&second);
	session_end(&second_session);
	close_both();
}

Test(intercept_http2, what_a_lost_connection_carried_is_lost)
{
	open_both();
	http2_peer_ask(&guest, ASK("GET", "/"), false);
	http2_peer_ask(&guest, ASK("GET", "/"), false);
	http2_peer_until(&server, "3 end");
	http2_peer_respond(&server, 1, ":status=200", true);
	http2_peer_data(&server, 1, "part", 4);
	http2_peer_until(&guest, "1 data part");
	close_server();
	http2_peer_until(&guest, "1 reset 2");
	http2_peer_until(&guest, "3 head :status=502");
	http2_peer_end(&guest);
}

Test(intercept_http2, a_guest_that_leaves_takes_its_streams_along)
{
	open_both();
	http2_peer_ask(&guest, ASK("POST", "/"), true);
	http2_peer_ask(&guest, ASK("GET", "/"), false);
	http2_peer_until(&server, "3 end");
	http2_peer_end(&guest);
	leave();
	http2_peer_until(&server, "1 reset 8");
	http2_peer_until(&server, "3 reset 8");
	close_server();
}

/* Sends all that there is to say. */
static void flush_guest(void)
{
	do
		http2_peer_run(guest.out.len);
	while (guest.out.len && !guest.gone);
}

static void expect_to_be_shut_out(uint32_t error)
{
	enum { ONCE = 60 };
	open_both();
	for (unsigned i = 0; i < 10 && !strstr(http2_peer_log(&guest), "goaway"); i++) {
		int32_t ids[ONCE];
		for (unsigned n = 0; n < ONCE; n++)
			ids[n] = http2_peer_ask(&guest, ASK("GET", "/"), false);
		flush_guest();
		for (unsigned n = 0; n < ONCE; n++)
			nghttp2_submit_rst_stream(guest.session, NGHTTP2_FLAG_NONE, ids[n], error);
		flush_guest();
	}
	http2_peer_until(&guest, "goaway 11");
	close_both();
}

Test(intercept_http2, a_guest_that_only_resets_is_shut_out)
{
	expect_to_be_shut_out(NGHTTP2_CANCEL);
}

/* As if nothing were wrong. */
Test(intercept_http2, a_guest_that_only_ends_streams_is_shut_out)
{
	expect_to_be_shut_out(NGHTTP2_NO_ERROR);
}

Test(intercept_http2, what_is_no_http2_ends_the_flow)
{
	start();
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	char rest[256];
	int n;
	while ((n = SSL_read(client, rest, sizeof rest)) > 0)
		;
	cr_expect_neq(SSL_get_error(client, n), SSL_ERROR_WANT_READ);
}
