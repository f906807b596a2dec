/* An FTPS client that costs little: it measures how many small files, logins or commands a server can do.

   lean HOST PORT USER PASSWORD WORK SESSIONS COUNT PREFIX

   WORK is down, up, login or command. Each of SESSIONS threads has one session, and does its work COUNT times. File
   number n is PREFIXn.bin; an upload has 10 KiB. TLS 1.3, and each data connection resumes the session of its control
   connection. Prints: seconds of the clock, and CPU seconds of this process, both without the logins (but of `login`).
   A reply or a number of bytes that is not as expected ends the program with status 1. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { FILE_SIZE = 10240, LINE = 512, PATIENCE = 60 };

static struct sockaddr_in server;
static const char *user, *password, *work, *prefix;
static int sessions, count;
static SSL_CTX *context;
static pthread_barrier_t begin;
static char content[FILE_SIZE];

struct session {
    int fd, number;
    SSL *ssl;
    SSL_SESSION *ticket;
    size_t filled;
    char input[4096];
};

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "lean: %s: %s\n", what, detail);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int dial(int port) {
    struct sockaddr_in address = server;
    struct timeval patience = {PATIENCE, 0};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_port = htons(port);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return fd;
}

static SSL *secure(int fd, SSL_SESSION *ticket) {
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    if (ticket != NULL) SSL_set_session(ssl, ticket);
    if (SSL_connect(ssl) != 1) fail("TLS", "the handshake failed");
    if (ticket != NULL && !SSL_session_reused(ssl)) fail("TLS", "the session was not resumed");
    return ssl;
}

/* Read one reply of one line, which must have this code. */
static void expect(struct session *session, int code, char *line) {
    char buffer[LINE], *end;
    if (line == NULL) line = buffer;
    while ((end = memchr(session->input, '\n', session->filled)) == NULL) {
        char *free_part = session->input + session->filled;
        size_t room = sizeof session->input - session->filled;
        int got = session->ssl != NULL ? SSL_read(session->ssl, free_part, room) : (int)read(session->fd, free_part, room);
        if (got <= 0) fail("control connection", "it was closed");
        session->filled += got;
    }
    size_t length = end + 1 - session->input;
    if (length >= LINE) fail("reply", "too long");
    memcpy(line, session->input, length);
    line[length] = 0;
    session->filled -= length;
    memmove(session->input, end + 1, session->filled);
    if (atoi(line) != code || line[3] != ' ') fail("reply", line);
}

static void send_line(struct session *session, const char *format, ...) {
    char line[LINE];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    int sent = session->ssl != NULL ? SSL_write(session->ssl, line, length) : (int)write(session->fd, line, length);
    if (sent != length) fail("control connection", "it cannot be written");
}

static void log_in(struct session *session) {
    session->fd = dial(ntohs(server.sin_port));
    session->ssl = NULL;
    session->ticket = NULL;
    session->filled = 0;
    expect(session, 220, NULL);
    send_line(session, "AUTH TLS\r\n");
    expect(session, 234, NULL);
    session->ssl = secure(session->fd, NULL);
    send_line(session, "USER %s\r\n", user);
    expect(session, 331, NULL);
    send_line(session, "PASS %s\r\n", password);
    expect(session, 230, NULL);
}

static void log_out(struct session *session) {
    send_line(session, "QUIT\r\n");
    expect(session, 221, NULL);
    SSL_free(session->ssl);
    close(session->fd);
    SSL_SESSION_free(session->ticket);
}

static void prepare(struct session *session) {
    send_line(session, "PBSZ 0\r\n");
    expect(session, 200, NULL);
    send_line(session, "PROT P\r\n");
    expect(session, 200, NULL);
    send_line(session, "TYPE I\r\n");
    expect(session, 200, NULL);
    session->ticket = SSL_get1_session(session->ssl); /* its tickets came before the first reply */
}

static int receive(SSL *ssl) {
    char buffer[2 * FILE_SIZE];
    int got, total = 0;
    while ((got = SSL_read(ssl, buffer, sizeof buffer)) > 0) total += got;
    if (SSL_get_error(ssl, got) != SSL_ERROR_ZERO_RETURN) fail("download", "no close_notify");
    return total;
}

static void transfer(struct session *session, int number, int up) {
    char line[LINE];
    int port = 0;
    send_line(session, "EPSV\r\n");
    expect(session, 229, line);
    char *found = strstr(line, "(|||");
    if (found == NULL || (port = atoi(found + 4)) == 0) fail("EPSV", line);
    int fd = dial(port);
    if (up) send_line(session, "STOR %s%d-%d.bin\r\n", prefix, session->number, number);
    else send_line(session, "RETR %s%d.bin\r\n", prefix, number);
    SSL *ssl = secure(fd, session->ticket);
    if (up) {
        if (SSL_write(ssl, content, FILE_SIZE) != FILE_SIZE) fail("upload", "it cannot be written");
        SSL_shutdown(ssl);
        shutdown(fd, SHUT_WR);
    } else if (receive(ssl) != FILE_SIZE) fail("download", "not the bytes of the file");
    expect(session, 150, NULL);
    expect(session, 226, NULL);
    SSL_free(ssl);
    close(fd);
}

static void *run(void *argument) {
    struct session *session = argument;
    int login = strcmp(work, "login") == 0, command = strcmp(work, "command") == 0, up = strcmp(work, "up") == 0;
    if (!login) {
        log_in(session);
        prepare(session);
        if (!command) transfer(session, 0, up);
    }
    pthread_barrier_wait(&begin);
    for (int number = 0; number < count; number++) {
        if (login) {
            log_in(session);
            log_out(session);
        } else if (command) {
            send_line(session, "PWD\r\n");
            expect(session, 257, NULL);
        } else transfer(session, number, up);
    }
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&begin); /* the time was read */
    if (!login) log_out(session);
    return NULL;
}

static double wall(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv) {
    if (argc != 9) fail("usage", "lean HOST PORT USER PASSWORD WORK SESSIONS COUNT PREFIX");
    signal(SIGPIPE, SIG_IGN);
    server.sin_family = AF_INET;
    inet_pton(AF_INET, argv[1], &server.sin_addr);
    server.sin_port = htons(atoi(argv[2]));
    user = argv[3], password = argv[4], work = argv[5], prefix = argv[8];
    sessions = atoi(argv[6]), count = atoi(argv[7]);
    context = SSL_CTX_new(TLS_client_method()); /* the certificate is the benchmark's own, and is not verified */
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set1_groups_list(context, "P-256"); /* as the other benchmark's client */
    pthread_barrier_init(&begin, NULL, sessions + 1);
    pthread_t threads[sessions];
    struct session *all = calloc(sessions, sizeof *all);
    for (int number = 0; number < sessions; number++) {
        all[number].number = number;
        if (pthread_create(&threads[number], NULL, run, &all[number]) != 0) fail("threads", "cannot be made");
    }
    pthread_barrier_wait(&begin);
    double began = wall(), used = cpu();
    pthread_barrier_wait(&begin);
    printf("%.6f %.6f\n", wall() - began, cpu() - used);
    pthread_barrier_wait(&begin);
    for (int number = 0; number < sessions; number++) pthread_join(threads[number], NULL);
    return 0;
}
