# Completion of fedsite for bash 4.4 and newer; written by `fedsite completion bash`.
_fedsite() {
    local current=${COMP_WORDS[COMP_CWORD]} answer=() words=() word offer
    # bash takes --option=value apart into three words; fedsite wants it whole.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        if ((${#words[@]})) && [[ $word == = || ${words[-1]} == --*= ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
    done
    mapfile -t answer < <("${1/#\~/$HOME}" __complete "${words[@]}" 2>/dev/null)
    COMPREPLY=()
    case ${answer[0]-} in
        files) compopt -o default ;;
        folders) compopt -o dirnames ;;
        words)
            for offer in "${answer[@]:1}"; do
                offer=${offer%%$'\t'*}
                # What stands before the = is typed already, and a word of its own.
                [[ $current == = || ${words[-1]} != "$current" ]] && offer=${offer#*=}
                COMPREPLY+=("$offer")
            done
            ;;
    esac
}
complete -F _fedsite fedsite
