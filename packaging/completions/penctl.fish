# Made of the table of commands: UPDATE_DOCS=1 cargo test -p pen manual
function __penctl_said
    set -l last
    set -l said
    for word in (commandline -opc)[2..]
        if not string match -q -- '--*' $word; and test "$last" != --timeout
            set -a said $word
        end
        set last $word
    end
    # Further addresses.
    while test (count $said) -gt 1; and string match -qr -- '[/:]|^[0-9]+$' $said[2]
        set -e said[2]
    end
    test (count $said) -gt 0; and printf '%s\n' $said
end

function __penctl_choices
    set -l said (__penctl_said)
    test (count $said) -eq 0; and return
    set -l address $said[1]
    set -l command "$said[2]"
    set -l place (math (count $said) - 1)
    if test "$command" = no; and test $place -gt 1
        set command "no $said[3]"
        set place (math $place - 1)
    end
    switch "$command:$place"
        case ':0'
            string split ' ' 'abort_on_error abuse abuse_over accept_batch acl ascii backlog blacklist block certificate certificates check check_fall check_interval check_rise check_timeout client_acl client_ca clients_max close conn_max connection connection_log connection_log_format control control_acl debug delayed_forward drain drain_timeout dsr_if dsr_ip dummy emergency epoll events exit exit_command explain fail_open hash hash_always help hold http idle_timeout idlers include jail keepalive kqueue leastconn listen log maglev max_servers metrics mode on_down overview p2c page page_acl pause peek pending_max per_client_max per_client_net per_client_rate pid pid_file poll prio proxy_protocol rebalance recent require_client_cert require_sandbox resolve resume roundrobin sandbox select server server_tls server_tls_ca server_tls_cert server_tls_name server_tls_verify servers servers_from servers_only show slow_start socket socket_buffers source ssl_ciphers ssl_client_renegotiation_interval ssl_ocsp_response ssl_option ssl_sni_path status status_file stubborn tarpit tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent unlimited_acl upgrade user watch web_stats weight workers write no top'
        case 'no:1'
            string split ' ' 'abort_on_error abuse abuse_over acl ascii block certificate client_ca connection_log control delayed_forward dummy emergency exit_command fail_open hash hash_always http jail keepalive leastconn log maglev p2c page peek per_client_rate pid_file prio require_client_cert require_sandbox roundrobin server server_tls server_tls_ca server_tls_cert server_tls_name server_tls_verify servers_from servers_only source ssl_ciphers ssl_ocsp_response ssl_sni_path status_file stubborn tcp_nodelay transparent unlimited_acl user web_stats weight'
        case 'check:4'
            string split ' ' '...'
        case 'help:1'
            string split ' ' 'abort_on_error abuse abuse_over accept_batch acl ascii backlog blacklist block certificate certificates check check_fall check_interval check_rise check_timeout client_acl client_ca clients_max close conn_max connection connection_log connection_log_format control control_acl debug delayed_forward drain drain_timeout dsr_if dsr_ip dummy emergency epoll events exit exit_command explain fail_open hash hash_always help hold http idle_timeout idlers include jail keepalive kqueue leastconn listen log maglev max_servers metrics mode on_down overview p2c page page_acl pause peek pending_max per_client_max per_client_net per_client_rate pid pid_file poll prio proxy_protocol rebalance recent require_client_cert require_sandbox resolve resume roundrobin sandbox select server server_tls server_tls_ca server_tls_cert server_tls_name server_tls_verify servers servers_from servers_only show slow_start socket socket_buffers source ssl_ciphers ssl_client_renegotiation_interval ssl_ocsp_response ssl_option ssl_sni_path status status_file stubborn tarpit tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent unlimited_acl upgrade user watch web_stats weight workers write'
        case 'show:1'
            string split ' ' 'abuse abuse_over accept_batch acl ascii backlog blacklist certificate check check_fall check_interval check_rise check_timeout client_acl client_ca clients_max conn_max connection_log connection_log_format control control_acl debug drain_timeout dummy emergency exit_command fail_open hash hash_always hold http idle_timeout idlers jail keepalive leastconn listen log maglev max_servers on_down p2c page page_acl pending_max per_client_max per_client_net per_client_rate pid_file prio proxy_protocol rebalance require_client_cert require_sandbox resolve roundrobin server server_tls server_tls_ca server_tls_cert server_tls_name server_tls_verify servers_from servers_only slow_start socket_buffers source ssl_ciphers ssl_ocsp_response ssl_option ssl_sni_path status_file stubborn tarpit tcp_fastclose tcp_nodelay timeout tracking unlimited_acl user web_stats weight workers'
        case 'socket_buffers:1'
            string split ' ' 'client server'
        case 'drain:4'
            string split ' ' 'close'
        case 'proxy_protocol:2'
            string split ' ' 'from off v1 v2'
        case 'proxy_protocol:1'
            string split ' ' 'in out'
        case 'certificates:1' 'events:1' 'events:2' 'mode:1' 'recent:1' 'recent:2' 'servers:1' 'status:1' 'watch:1'
            string split ' ' 'json'
        case 'on_down:1'
            string split ' ' 'keep close'
        case 'check:1'
            string split ' ' 'off'
        case 'abort_on_error:1' 'abuse_over:1' 'ascii:1' 'block:1' 'delayed_forward:1' 'dummy:1' 'exit_command:1' 'fail_open:1' 'hash:1' 'hash_always:1' 'keepalive:1' 'leastconn:1' 'p2c:1' 'peek:1' 'prio:1' 'require_client_cert:1' 'require_sandbox:1' 'roundrobin:1' 'server_tls:1' 'server_tls_verify:1' 'servers_only:1' 'stubborn:1' 'tcp_nodelay:1' 'transparent:1' 'weight:1'
            string split ' ' 'on off'
        case 'maglev:1'
            string split ' ' 'on off bounded'
        case 'http:1'
            string split ' ' 'on off mixed'
        case 'acl:2'
            string split ' ' 'permit deny'
        case 'servers_from:4'
            string split ' ' 'srv'
        case 'connection_log:1'
            string split ' ' 'syslog'
        case 'connection_log_format:1'
            string split ' ' 'text json haproxy haproxy_http'
        case 'tcp_fastclose:1'
            string split ' ' 'up down both off'
        case 'drain:2'
            string split ' ' 'wait'
        case 'server:*0' 'server:*2' 'server:*4' 'server:*6' 'server:*8'
            string split ' ' 'acl address blacklist check hard max port prio state tls weight'
        case 'server:1' 'no server:1'
            penctl "$address" servers 2>/dev/null | cut -d' ' -f1
    end
end

complete -c penctl -n 'test (count (__penctl_said)) -eq 0' -l json -d 'Reply in JSON'
complete -c penctl -n 'test (count (__penctl_said)) -eq 0' -l timeout -x -d 'Seconds to wait without progress'
complete -c penctl -n 'test (count (__penctl_said)) -eq 0' -l help -d 'Print help'
complete -c penctl -n 'test (count (__penctl_said)) -eq 0' -l version -d 'Print the version'
complete -c penctl -n 'test (count (__penctl_choices)) -gt 0' -f
complete -c penctl -a '(__penctl_choices)'
