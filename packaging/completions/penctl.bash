# Made of the table of commands: UPDATE_DOCS=1 cargo test -p pen manual
_penctl() {
    local line=${COMP_LINE:0:COMP_POINT} cur= word last= choices=
    local -a words said
    read -ra words <<<"$line"
    if [[ $line != *[[:space:]] ]]; then
        cur=${words[${#words[@]}-1]}
        unset "words[${#words[@]}-1]"
    fi
    for word in "${words[@]:1}"; do
        [[ $word == --* || $last == --timeout ]] || said+=("$word")
        last=$word
    done
    # Further addresses.
    while ((${#said[@]} > 1)) && [[ ${said[1]} == *[/:]* || ${said[1]} != *[!0-9]* ]]; do
        said=("${said[0]}" "${said[@]:2}")
    done
    if ((${#said[@]} == 0)); then
        [[ $cur == -* ]] && COMPREPLY=($(compgen -W '--json --timeout --help --version' -- "$cur"))
        return
    fi
    local address=${said[0]} command=${said[1]-} place=$((${#said[@]} - 1))
    if [[ $command == no ]] && ((place > 1)); then
        command="no ${said[2]}" place=$((place - 1))
    fi
    case "$command:$place" in
    :0) choices='abort_on_error abuse abuse_over accept_batch acl ascii backlog blacklist block certificate certificates check check_fall check_interval check_rise check_timeout client_acl client_ca clients_max close conn_max connection connection_log connection_log_format control control_acl debug delayed_forward drain drain_timeout dsr_if dsr_ip dummy emergency epoll events exit exit_command explain fail_open hash hash_always help hold http idle_timeout idlers include jail keepalive kqueue leastconn listen log maglev max_servers metrics mode on_down overview p2c page page_acl pause peek pending_max per_client_max per_client_net per_client_rate pid pid_file poll prio proxy_protocol rebalance recent require_client_cert require_sandbox resolve resume roundrobin sandbox select server server_tls server_tls_ca server_tls_cert server_tls_name server_tls_verify servers servers_from servers_only show slow_start socket socket_buffers source ssl_ciphers ssl_client_renegotiation_interval ssl_ocsp_response ssl_option ssl_sni_path status status_file stubborn tarpit tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent unlimited_acl upgrade user watch web_stats weight workers write no top' ;;
    no:1) choices='abort_on_error abuse abuse_over acl ascii block certificate client_ca connection_log control delayed_forward dummy emergency exit_command fail_open hash hash_always http jail keepalive leastconn log maglev p2c page peek per_client_rate pid_file prio require_client_cert require_sandbox roundrobin server server_tls server_tls_ca server_tls_cert server_tls_name server_tls_verify servers_from servers_only source ssl_ciphers ssl_ocsp_response ssl_sni_path status_file stubborn tcp_nodelay transparent unlimited_acl user web_stats weight' ;;
    check:4) choices='...' ;;
    help:1) choices='abort_on_error abuse abuse_over accept_batch acl ascii backlog blacklist block certificate certificates check check_fall check_interval check_rise check_timeout client_acl client_ca clients_max close conn_max connection connection_log connection_log_format control control_acl debug delayed_forward drain drain_timeout dsr_if dsr_ip dummy emergency epoll events exit exit_command explain fail_open hash hash_always help hold http idle_timeout idlers include jail keepalive kqueue leastconn listen log maglev max_servers metrics mode on_down overview p2c page page_acl pause peek pending_max per_client_max per_client_net per_client_rate pid pid_file poll prio proxy_protocol rebalance recent require_client_cert require_sandbox resolve resume roundrobin sandbox select server server_tls server_tls_ca server_tls_cert server_tls_name server_tls_verify servers servers_from servers_only show slow_start socket socket_buffers source ssl_ciphers ssl_client_renegotiation_interval ssl_ocsp_response ssl_option ssl_sni_path status status_file stubborn tarpit tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent unlimited_acl upgrade user watch web_stats weight workers write' ;;
    show:1) choices='abuse abuse_over accept_batch acl ascii backlog blacklist certificate check check_fall check_interval check_rise check_timeout client_acl client_ca clients_max conn_max connection_log connection_log_format control control_acl debug drain_timeout dummy emergency exit_command fail_open hash hash_always hold http idle_timeout idlers jail keepalive leastconn listen log maglev max_servers on_down p2c page page_acl pending_max per_client_max per_client_net per_client_rate pid_file prio proxy_protocol rebalance require_client_cert require_sandbox resolve roundrobin server server_tls server_tls_ca server_tls_cert server_tls_name server_tls_verify servers_from servers_only slow_start socket_buffers source ssl_ciphers ssl_ocsp_response ssl_option ssl_sni_path status_file stubborn tarpit tcp_fastclose tcp_nodelay timeout tracking unlimited_acl user web_stats weight workers' ;;
    socket_buffers:1) choices='client server' ;;
    drain:4) choices='close' ;;
    proxy_protocol:2) choices='from off v1 v2' ;;
    proxy_protocol:1) choices='in out' ;;
    certificates:1 | events:1 | events:2 | mode:1 | recent:1 | recent:2 | servers:1 | status:1 | watch:1) choices='json' ;;
    on_down:1) choices='keep close' ;;
    check:1) choices='off' ;;
    abort_on_error:1 | abuse_over:1 | ascii:1 | block:1 | delayed_forward:1 | dummy:1 | exit_command:1 | fail_open:1 | hash:1 | hash_always:1 | keepalive:1 | leastconn:1 | p2c:1 | peek:1 | prio:1 | require_client_cert:1 | require_sandbox:1 | roundrobin:1 | server_tls:1 | server_tls_verify:1 | servers_only:1 | stubborn:1 | tcp_nodelay:1 | transparent:1 | weight:1) choices='on off' ;;
    maglev:1) choices='on off bounded' ;;
    http:1) choices='on off mixed' ;;
    acl:2) choices='permit deny' ;;
    servers_from:4) choices='srv' ;;
    connection_log:1) choices='syslog' ;;
    connection_log_format:1) choices='text json haproxy haproxy_http' ;;
    tcp_fastclose:1) choices='up down both off' ;;
    drain:2) choices='wait' ;;
    server:*[02468]) choices='acl address blacklist check hard max port prio state tls weight' ;;
    server:1 | no\ server:1) choices=$(penctl "$address" servers 2>/dev/null | cut -d' ' -f1) ;;
    esac
    COMPREPLY=($(compgen -W "$choices" -- "$cur"))
}

complete -o default -F _penctl penctl
