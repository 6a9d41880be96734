# Completion of fedsite for fish 3 and newer; written by `fedsite completion fish`.
function __fedsite_offers
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l current (commandline --current-token --cut-at-cursor)
    set -l program (string replace --regex '^~' $HOME -- $words[1])
    set -l answer ($program __complete $words[2..-1] "$current" 2>/dev/null)
    switch "$answer[1]"
        case files
            __fish_complete_path "$current"
        case folders
            __fish_complete_directories "$current"
        case words
            printf '%s\n' $answer[2..-1]
    end
end
complete --command fedsite --no-files --arguments '(__fedsite_offers)'
