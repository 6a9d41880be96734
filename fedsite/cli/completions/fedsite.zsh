#compdef fedsite
# Completion of fedsite for zsh; written by `fedsite completion zsh`.
_fedsite() {
    local -a answer offers
    local line
    answer=("${(@f)$("${(Q)~words[1]}" __complete "${(Q@)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    case ${answer[1]-} in
        files) compset -P '--*='; _files ;;
        folders) compset -P '--*='; _files -/ ;;
        words)
            for line in "${(@)answer[2,-1]}"; do
                # A colon would end the word; what follows the tab describes it.
                offers+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
            done
            ((${#offers})) && _describe -V fedsite offers
            ;;
    esac
}
# Sourced, it registers itself; as a file in $fpath, compinit has done so and calls it.
if [[ ${funcstack[1]-} == _fedsite ]]; then _fedsite "$@"; else compdef _fedsite fedsite; fi
