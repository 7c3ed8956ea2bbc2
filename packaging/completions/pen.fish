complete -c pen -s e -l emergency -d 'The server of last resort, when no other can be used' -r
complete -c pen -s B -l abuse -d 'Where clients go that the client access list refuses' -r
complete -c pen -s b -l blacklist-time -d 'How long a server that failed is left out; 0 = never [0 to 2147483647; default 30]' -r
complete -c pen -s T -l tracking -d 'How long a client is remembered; 0 = for ever [0 to 2147483647; default 0]' -r
complete -c pen -s t -l timeout -d 'How long a connect may take [1 to 2147483647; default 5]' -r
complete -c pen -s c -l clients -d 'Slots of the client table [1 to 16777216; default 2048]' -r
complete -c pen -s x -l max-connections -d 'Most simultaneous connections [1 to 1048576; default 256]' -r
complete -c pen -s S -l max-servers -d 'Slots of the server table; 16 or what is needed if not given [1 to 4096]' -r
complete -c pen -s m -l accept-batch -d 'Most connections accepted per wake-up [1 to 2147483647; default 100]' -r
complete -c pen -s q -l backlog -d 'Listen backlog; at least 50 [0 to 2147483647; default 500]' -r
complete -c pen -s u -l user -d 'Run the workers as this user and its groups' -r
complete -c pen -s j -l jail -d 'Run the workers in this root directory' -r
complete -c pen -s p -l pid-file -d 'Write the pid to this file' -r
complete -c pen -l workers -d 'Number of worker processes; one per processor if not given [1 to 64]' -r
complete -c pen -s l -l log -d 'Log requests to a file, or by UDP to penlogd' -r
complete -c pen -s w -l status-file -d 'On signal USR1, write the HTML status report to this file' -r
complete -c pen -s E -l cert -d 'Certificate and its chain (PEM), and the key unless -K names it; turns TLS on' -r
complete -c pen -s K -l key -d 'Private key (PEM)' -r
complete -c pen -s G -l ca-file -d 'Certification authorities of clients (PEM); with neither -G nor -A the system\'s' -r
complete -c pen -s A -l ca-dir -d 'Directory of certification authorities of clients, in files called hash.N' -r
complete -c pen -s L -l tls-floor -d 'ssl23 or tls1: TLS 1.2 and 1.3 either way' -r
complete -c pen -s F -l config -d 'Configuration file, read after all options; read again on signal HUP' -r
complete -c pen -s O -l command -d 'Run a command of the control port at the start; may be repeated' -r
complete -c pen -s o -l option -d 'As -O' -r
complete -c pen -s C -l control -d 'Control port; a port alone is one of 127.0.0.1' -r
complete -c pen -l upgrade -d 'Ask the pen of this pid file to go on as the program that is installed now' -r
complete -c pen -s i -l windows-service -d 'Windows only' -r
complete -c pen -s r -l round-robin -d 'Round robin, without looking up which server a client used'
complete -c pen -s h -l hash -d 'A hash of the client\'s address chooses the first server'
complete -c pen -s N -l hash-always -d 'As -h, for every connection, without tracking'
complete -c pen -s W -l weight -d 'The server with the least load for its weight comes first'
complete -c pen -l prio -d 'The available server with the lowest prio comes first'
complete -c pen -s s -l stubborn -d 'If the first choice cannot be used, close the client; no failover'
complete -c pen -s H -l forwarded-for -d 'Say in every HTTP request who the client is: X-Forwarded-For'
complete -c pen -s f -l foreground -d 'Stay in the foreground'
complete -c pen -l require-sandbox -d 'Do not start if the system cannot confine every process as it should'
complete -c pen -s d -l debug -d 'Say more; repeat for still more'
complete -c pen -s a -l ascii -d 'With -dd, dump traffic in ASCII instead of hexadecimal'
complete -c pen -s R -l require-client-cert -d 'Clients must present a valid certificate'
complete -c pen -s X -l exit-command -d 'Allow the commands exit and upgrade on the control port'
complete -c pen -l check -d 'Print ok or every error of the configuration, and do nothing'
complete -c pen -l show -d 'With --check, print the settings that a start would have instead of ok'
complete -c pen -s n -l nonblocking -d 'No effect: sockets are always nonblocking'
complete -c pen -s D -l delayed-forward -d 'No effect'
complete -c pen -s P -l poll -d 'No effect'
complete -c pen -s Q -l kqueue -d 'No effect'
complete -c pen -s Z -l tls-workarounds -d 'No effect'
complete -c pen -s U -l udp -d 'UDP instead of TCP'
complete -c pen -l help -d 'Print this help'
complete -c pen -l version -d 'Print the version'
