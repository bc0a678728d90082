/* Tests of server/http_socket.c: which hosts are this machine's alone. */
#include "server/http_socket.h"

#include "tests/test.h"

TEST(loopback_however_it_is_written)
{
    static const char *const loopback[] = {"localhost", "127.0.0.1", "127.8.9.10", "::1", "[::1]",
                                           "0:0:0:0:0:0:0:1", "[0::0001]", "::ffff:127.0.0.1",
                                           "[::ffff:7f01:203]"};
    static const char *const others[] = {"0.0.0.0", "::", "[::]", "128.0.0.1", "12.7.0.1",
                                         "10.0.0.1", "::127.0.0.1", "::ffff:128.0.0.1",
                                         "fe80::1", "[127.0.0.1]", "127.1", "a.zz", ""};
    for (size_t i = 0; i < sizeof loopback / sizeof loopback[0]; i++)
        EXPECT(http_socket_loopback(loopback[i]));
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        EXPECT(!http_socket_loopback(others[i]));
}
