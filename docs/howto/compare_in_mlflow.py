"""Makes compare-in-mlflow.png: the attack runs of `make demo` in the MLflow UI, with the columns that the page names.

With Chromium and its driver installed, from the folder of the runs, while `advtrack dashboard` serves them:

    python docs/howto/compare_in_mlflow.py http://127.0.0.1:5000 compare-in-mlflow.png
"""

import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

HIDDEN = ("Dataset", "Source", "Models")
SHOWN = ("representation", "training", "deepfool/bound", "deepfool/fooling_rate", "deepfool/ratio_linf")
SHOWN += ("deepfool/transferred_fooling_rate",)


def main(server: str, picture: str) -> None:
    """Open the run table, choose its columns, and save what is seen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1500,640"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))

    def press(path: str) -> None:
        WebDriverWait(browser, 120).until(lambda _: browser.find_elements(By.XPATH, path))[0].click()

    browser.get(f"{server}/#/experiments/1/runs?searchFilter={quote('tags.`advtrack.stage` = ' + repr('attack'))}")
    press("//button[@aria-label='Close']")  # the assistant
    press("//button[normalize-space()='Columns']")
    search = browser.find_element(By.XPATH, "//input[@placeholder='Search columns']")
    for name in (*HIDDEN, *SHOWN):
        search.send_keys(name)
        press(f"//div[@role='dialog']//*[contains(@class, 'tree-title')][normalize-space()='{name}']")
        search.send_keys(len(name) * Keys.BACKSPACE)
    press("//h2")
    Path(picture).write_bytes(browser.get_screenshot_as_png())
    browser.quit()


if __name__ == "__main__":
    main(*sys.argv[1:])
