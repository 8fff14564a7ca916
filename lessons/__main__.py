from lessons.kit.cli import main

main()
