# A server on HTTP::Daemon: perl plain.pl PORT. Writes what it took for requests to standard output,
# a line each.
use strict;
use warnings;
use HTTP::Daemon;
use HTTP::Response;
use Compress::Zlib qw(crc32);
use URI::Escape;

$| = 1;
$SIG{PIPE} = 'IGNORE';
my $daemon = HTTP::Daemon->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0], ReuseAddr => 1,
    Listen => 512) or die $!;
# One connection after the other.
while (1) {
    my $connection = $daemon->accept or next;
    $connection->timeout(5);
    while (my $request = $connection->get_request) {
        my @lists = $request->header('X-Forwarded-For');
        my $body = $request->content;
        my @words = ('SEEN', 200, $request->uri->as_string, length($body), crc32($body), @lists);
        syswrite STDOUT, join("\t", map { uri_escape($_, '^A-Za-z0-9/:., ') } @words) . "\n";
        $connection->send_response(HTTP::Response->new(200, 'OK', [], 'ok'));
    }
    $connection->close;
}
