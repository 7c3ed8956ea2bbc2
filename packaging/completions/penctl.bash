# Made of the table of commands: UPDATE_DOCS=1 cargo test -p pen manual
_penctl() {
    local line=${COMP_LINE:0:COMP_POINT} cur= word choices=
    local -a words said
    read -ra words <<<"$line"
    if [[ $line != *[[:space:]] ]]; then
        cur=${words[${#words[@]}-1]}
        unset "words[${#words[@]}-1]"
    fi
    for word in "${words[@]:1}"; do
        [[ $word == --* ]] || said+=("$word")
    done
    if ((${#said[@]} == 0)); then
        [[ $cur == -* ]] && COMPREPLY=($(compgen -W '--json --help --version' -- "$cur"))
        return
    fi
    local address=${said[0]} command=${said[1]-} place=$((${#said[@]} - 1))
    if [[ $command == no ]] && ((place > 1)); then
        command="no ${said[2]}" place=$((place - 1))
    fi
    case "$command:$place" in
    :0) choices='abort_on_error acl ascii blacklist block certificates client_acl clients_max close conn_max connection control control_acl debug delayed_forward dsr_if dsr_ip dummy epoll exit explain hash help http idle_timeout idlers include keepalive kqueue listen log mode peek pending_max pid poll prio proxy_protocol recent roundrobin sandbox select server servers socket socket_buffers source ssl_ciphers ssl_client_renegotiation_interval ssl_ocsp_response ssl_option ssl_sni_path status stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent web_stats weight workers write no' ;;
    no:1) choices='abort_on_error acl ascii block delayed_forward dummy hash http keepalive log peek prio roundrobin source stubborn tcp_nodelay transparent web_stats weight' ;;
    help:1) choices='abort_on_error acl ascii blacklist block certificates client_acl clients_max close conn_max connection control control_acl debug delayed_forward dsr_if dsr_ip dummy epoll exit explain hash help http idle_timeout idlers include keepalive kqueue listen log mode peek pending_max pid poll prio proxy_protocol recent roundrobin sandbox select server servers socket socket_buffers source ssl_ciphers ssl_client_renegotiation_interval ssl_ocsp_response ssl_option ssl_sni_path status stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent web_stats weight workers write' ;;
    socket_buffers:1) choices='client server' ;;
    proxy_protocol:2) choices='from off v1 v2' ;;
    proxy_protocol:1) choices='in out' ;;
    certificates:1 | mode:1 | recent:1 | recent:2 | servers:1 | status:1) choices='json' ;;
    abort_on_error:1 | ascii:1 | block:1 | delayed_forward:1 | dummy:1 | hash:1 | keepalive:1 | peek:1 | prio:1 | roundrobin:1 | stubborn:1 | tcp_nodelay:1 | transparent:1 | weight:1) choices='on off' ;;
    http:1) choices='on off mixed' ;;
    acl:2) choices='permit deny' ;;
    tcp_fastclose:1) choices='up down both off' ;;
    server:*[02468]) choices='acl address blacklist hard max port prio weight' ;;
    server:1 | no\ server:1) choices=$(penctl "$address" servers 2>/dev/null | cut -d' ' -f1) ;;
    esac
    COMPREPLY=($(compgen -W "$choices" -- "$cur"))
}

complete -o default -F _penctl penctl
