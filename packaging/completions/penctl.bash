_penctl() {
    local i cur prev opts cmd
    COMPREPLY=()
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        cur="$2"
    else
        cur="${COMP_WORDS[COMP_CWORD]}"
    fi
    prev="$3"
    cmd=""
    opts=""

    for i in "${COMP_WORDS[@]:0:COMP_CWORD}"
    do
        case "${cmd},${i}" in
            ",$1")
                cmd="penctl"
                ;;
            *)
                ;;
        esac
    done

    case "${cmd}" in
        penctl)
            opts="--json --help --version abort_on_error acl ascii blacklist block certificates client_acl clients_max close conn_max connection control control_acl debug delayed_forward dsr_if dsr_ip dummy epoll exit explain hash http idle_timeout idlers include keepalive kqueue listen log mode peek pending_max pid poll prio proxy_protocol recent roundrobin sandbox select server servers socket socket_buffers source ssl_ciphers ssl_client_renegotiation_interval ssl_ocsp_response ssl_option ssl_sni_path status stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent web_stats weight workers write no"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 1 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
    esac
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _penctl -o nosort -o bashdefault -o default penctl
else
    complete -F _penctl -o bashdefault -o default penctl
fi
